//! The terminal's modes and keys.

use crossterm::event::{Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers, poll, read};
use crossterm::terminal::{disable_raw_mode, enable_raw_mode, is_raw_mode_enabled};
use std::io;
use std::time::Duration;

/// What a person asks for while a model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// Push harder.
    Up,
    /// Push less hard.
    Down,
    /// Close the thinking and ask for the answer.
    EndThinking,
    /// Stop.
    Quit,
    /// Ctrl-C.
    Interrupt,
    /// The terminal has another size.
    Resized,
}

/// Keys come one by one and unseen for as long as this lives.
pub struct RawMode(());

impl RawMode {
    /// Switches the terminal over.
    pub fn enter() -> io::Result<Self> {
        enable_raw_mode()?;
        Ok(Self(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back as it was. Safe to call at any time.
pub fn restore() {
    if is_raw_mode_enabled().unwrap_or(false) {
        // Nothing can be done about a terminal that is gone.
        let _ = disable_raw_mode();
    }
}

/// The keys pressed since the last call.
pub fn keys() -> io::Result<Vec<Key>> {
    let mut keys = Vec::new();
    while poll(Duration::ZERO)? {
        match read()? {
            Event::Key(event) => keys.extend(key(event)),
            Event::Resize(..) => keys.push(Key::Resized),
            _ => {}
        }
    }
    Ok(keys)
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    match (event.code, event.modifiers.contains(KeyModifiers::CONTROL)) {
        (KeyCode::Char('c'), true) => Some(Key::Interrupt),
        (KeyCode::Up | KeyCode::Char('+'), false) => Some(Key::Up),
        (KeyCode::Down | KeyCode::Char('-'), false) => Some(Key::Down),
        (KeyCode::Char('e' | 'E'), false) => Some(Key::EndThinking),
        (KeyCode::Char('q' | 'Q'), false) => Some(Key::Quit),
        _ => None,
    }
}
