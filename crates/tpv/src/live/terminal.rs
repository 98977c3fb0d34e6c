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

/// The keys pressed since the last call. Ctrl-Z stops the program here until the shell lets it go on, when everything is to
/// be drawn anew.
pub fn keys() -> io::Result<Vec<Key>> {
    let mut keys = Vec::new();
    while poll(Duration::ZERO)? {
        match read()? {
            Event::Key(event) if is_ctrl(&event, 'z') => {
                suspend()?;
                keys.push(Key::Resized);
            }
            Event::Key(event) => keys.extend(key(event)),
            Event::Resize(..) => keys.push(Key::Resized),
            _ => {}
        }
    }
    Ok(keys)
}

/// How long lines that are pasted together may be apart.
const PASTE: Duration = Duration::from_millis(30);

/// The lines that already wait behind the one that was just read, as when several are pasted at once. Only while lines are
/// read as wholes, outside [`RawMode`].
pub fn waiting_lines() -> io::Result<String> {
    let mut text = String::new();
    while poll(PASTE)? {
        let Event::Key(event) = read()? else { continue };
        match event.code {
            _ if event.kind == KeyEventKind::Release => {}
            KeyCode::Char(character) if !event.modifiers.contains(KeyModifiers::CONTROL) => text.push(character),
            KeyCode::Tab => text.push('\t'),
            // The end of a line is a line feed, which crossterm takes for Ctrl-J outside of raw mode.
            KeyCode::Enter | KeyCode::Char('j') => text.push('\n'),
            _ => {}
        }
    }
    Ok(text)
}

#[cfg(unix)]
fn suspend() -> io::Result<()> {
    use signal_hook::{consts::SIGTSTP, low_level::raise};
    disable_raw_mode()?;
    raise(SIGTSTP)?;
    enable_raw_mode()
}

#[cfg(not(unix))]
fn suspend() -> io::Result<()> {
    Ok(())
}

fn is_ctrl(event: &KeyEvent, letter: char) -> bool {
    event.kind != KeyEventKind::Release
        && event.code == KeyCode::Char(letter)
        && event.modifiers.contains(KeyModifiers::CONTROL)
}

fn key(event: KeyEvent) -> Option<Key> {
    if event.kind == KeyEventKind::Release {
        return None;
    }
    if is_ctrl(&event, 'c') {
        return Some(Key::Interrupt);
    }
    match (event.code, event.modifiers.contains(KeyModifiers::CONTROL)) {
        (KeyCode::Up | KeyCode::Char('+'), false) => Some(Key::Up),
        (KeyCode::Down | KeyCode::Char('-'), false) => Some(Key::Down),
        (KeyCode::Char('e' | 'E'), false) => Some(Key::EndThinking),
        (KeyCode::Char('q' | 'Q'), false) => Some(Key::Quit),
        _ => None,
    }
}
