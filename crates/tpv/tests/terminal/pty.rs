//! A program on a pseudo-terminal that is looked at and typed into, and whose every drawing can be looked at afterwards.

use crate::picture::picture;
use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const TPV: &str = env!("CARGO_BIN_EXE_tpv");

/// What every drawing of the live line begins with.
const DRAWING: &[u8] = b"\x1b[J";
/// Rows that have left the screen and are kept.
const SCROLL_BACK: usize = 200;

/// Everything that has come from the program.
struct Seen {
    terminal: vt100::Parser,
    bytes: Vec<u8>,
    /// The sizes that the terminal had, each from a byte on: (byte, rows, columns).
    sizes: Vec<(usize, u16, u16)>,
}

/// The terminal, as large as the test wants it.
pub struct Terminal {
    master: Box<dyn MasterPty + Send>,
    keyboard: Box<dyn Write + Send>,
    child: Box<dyn Child + Send + Sync>,
    seen: Arc<Mutex<Seen>>,
    _home: tempfile::TempDir,
}

fn cells(count: u16) -> NonZeroU16 {
    NonZeroU16::new(count).unwrap()
}

fn blank_terminal(rows: u16, columns: u16) -> vt100::Parser {
    vt100::Parser::new(cells(rows), cells(columns), SCROLL_BACK)
}

impl Terminal {
    pub fn start(size: (u16, u16), program: &str, args: &[&str], environment: &[(&str, &str)]) -> Self {
        let (rows, cols) = size;
        let pair = native_pty_system().openpty(PtySize { rows, cols, ..PtySize::default() }).unwrap();
        let home = tempfile::tempdir().unwrap();
        let mut command = CommandBuilder::new(program);
        command.args(args);
        command.env("TPV_HOME", home.path());
        command.env("TERM", "xterm-256color");
        command.env_remove("NO_COLOR");
        environment.iter().for_each(|(name, value)| command.env(name, value));
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let seen = Seen { terminal: blank_terminal(rows, cols), bytes: Vec::new(), sizes: vec![(0, rows, cols)] };
        let seen = Arc::new(Mutex::new(seen));
        let (mut output, screen) = (pair.master.try_clone_reader().unwrap(), Arc::clone(&seen));
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut bytes) {
                let mut seen = screen.lock().unwrap();
                seen.terminal.process(&bytes[..count]);
                seen.bytes.extend_from_slice(&bytes[..count]);
            }
        });
        let keyboard = pair.master.take_writer().unwrap();
        Self { master: pair.master, keyboard, child, seen, _home: home }
    }

    /// The text on the screen.
    pub fn screen(&self) -> String {
        self.seen.lock().unwrap().terminal.screen().contents()
    }

    /// The whole screen as a picture.
    pub fn picture(&self) -> String {
        picture(self.seen.lock().unwrap().terminal.screen())
    }

    /// The first drawing whose text fulfils `is_it`, as a picture.
    pub fn drawing(&self, is_it: impl Fn(&str) -> bool) -> Option<String> {
        let seen = self.seen.lock().unwrap();
        let (_, rows, columns) = seen.sizes[0];
        let mut terminal = blank_terminal(rows, columns);
        let mut sizes = seen.sizes[1..].iter().peekable();
        for (at, &byte) in seen.bytes.iter().enumerate() {
            // Right before the next drawing begins, this one is complete.
            if seen.bytes[at..].starts_with(DRAWING) && is_it(&terminal.screen().contents()) {
                return Some(picture(terminal.screen()));
            }
            while let Some((_, rows, columns)) = sizes.next_if(|(from, ..)| *from <= at) {
                terminal.screen_mut().set_size(cells(*rows), cells(*columns));
            }
            terminal.process(&[byte]);
        }
        None
    }

    /// The row of the live line, if it is there.
    pub fn line(&self) -> Option<String> {
        self.screen().lines().find(|row| row.contains('█') || row.contains('░')).map(str::to_owned)
    }

    pub fn wait_for(&self, what: &str, is_there: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_there(self) {
            assert!(started.elapsed() < Duration::from_secs(60), "no {what}:\n{}", self.screen());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn wait_for_text(&self, text: &str) {
        self.wait_for(text, |terminal| terminal.screen().contains(text));
    }

    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
        self.keyboard.flush().unwrap();
    }

    pub fn resize(&self, rows: u16, cols: u16) {
        let mut seen = self.seen.lock().unwrap();
        seen.terminal.screen_mut().set_size(cells(rows), cells(cols));
        let at = seen.bytes.len();
        seen.sizes.push((at, rows, cols));
        self.master.resize(PtySize { rows, cols, ..PtySize::default() }).unwrap();
    }

    /// Waits for the end, and for the last output to arrive.
    pub fn exit_code(&mut self) -> u32 {
        let code = self.child.wait().unwrap().exit_code();
        std::thread::sleep(Duration::from_millis(200));
        code
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
    }
}
