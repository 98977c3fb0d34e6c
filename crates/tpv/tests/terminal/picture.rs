//! A screen as text: every row with its inks, and where the cursor stands. Numbers that depend on the clock become `#`.

use std::fs;
use std::path::PathBuf;

/// The screen, for example `<faint|so 31.>` in one row and `cursor: row 1, column 0` in the last.
pub fn picture(screen: &vt100::Screen) -> String {
    let (rows, columns) = screen.size();
    let mut lines: Vec<String> = (0..rows.get()).map(|row| draw_row(screen, row, columns.get())).collect();
    while lines.last().is_some_and(String::is_empty) {
        lines.pop();
    }
    let (row, column) = screen.cursor_position();
    lines.push(format!("cursor: row {row}, column {column}"));
    without_clock(&lines.join("\n"))
}

fn draw_row(screen: &vt100::Screen, row: u16, columns: u16) -> String {
    let (mut text, mut open) = (String::new(), "");
    let mut turn = |text: &mut String, ink: &'static str| {
        if ink != open {
            text.push_str(if open.is_empty() { "" } else { ">" });
            text.push_str(&if ink.is_empty() { String::new() } else { format!("<{ink}|") });
            open = ink;
        }
    };
    for cell in (0..columns).filter_map(|column| screen.cell(row, column)).filter(|cell| !cell.is_wide_continuation()) {
        turn(&mut text, ink(cell));
        text.push_str(if cell.has_contents() { cell.contents() } else { " " });
    }
    turn(&mut text, "");
    text.trim_end().to_owned()
}

fn ink(cell: &vt100::Cell) -> &'static str {
    match (cell.fgcolor(), cell.dim(), cell.bold()) {
        (vt100::Color::Default, false, false) => "",
        (vt100::Color::Default, true, false) => "faint",
        (vt100::Color::Default, false, true) => "bold",
        (vt100::Color::Idx(1), false, false) => "red",
        (vt100::Color::Idx(2), false, false) => "green",
        (vt100::Color::Idx(3), false, false) => "yellow",
        (vt100::Color::Idx(5), false, false) => "magenta",
        (vt100::Color::Idx(6), false, false) => "cyan",
        _ => "other",
    }
}

/// Speeds, times left and durations depend on the machine.
fn without_clock(text: &str) -> String {
    let mut blanked = text.to_owned();
    let left = " s left (";
    let clocks = [("", " tok/s"), ("~", left), (left, ")"), (left, " if unpushed)"), ("thought for ", " s,")];
    for (start, end) in clocks {
        blanked = blank(&blanked, start, end);
    }
    blanked
}

/// Replaces the numbers right before every `end` (and after `start`), joined by hyphens, each by one `#`.
fn blank(text: &str, start: &str, end: &str) -> String {
    let mut parts = text.split(end).peekable();
    let mut blanked = String::new();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            blanked.push_str(part);
            break;
        }
        let kept = part.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-'));
        let numbers = &part[kept.len()..];
        if numbers.is_empty() || !kept.ends_with(start) {
            blanked.push_str(part);
        } else {
            blanked.push_str(kept);
            blanked.push_str(&numbers.split('-').map(|_| "#").collect::<Vec<_>>().join("-"));
        }
        blanked.push_str(end);
    }
    blanked
}

/// Compares titled pictures with `golden/NAME.txt`; with `TPV_BLESS=1` in the environment they are written there instead.
pub fn assert_golden(name: &str, pictures: &[(&str, String)]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/terminal/golden").join(format!("{name}.txt"));
    let drawn: String = pictures.iter().map(|(title, picture)| format!("=== {title}\n{picture}\n")).collect();
    if std::env::var_os("TPV_BLESS").is_some() {
        fs::write(&path, &drawn).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_default().replace("\r\n", "\n");
    assert!(golden == drawn, "{name} differs; expected:\n{golden}\ngot (TPV_BLESS=1 takes it over):\n{drawn}");
}

#[test]
fn clocks_are_blanked_and_nothing_else() {
    let text = "63 %  412 tok  38.5 tok/s  ~6 s left (4-12.9)  alpha 20\nthought for 11.2 s, 655 tokens (5)";
    let blanked = "63 %  412 tok  # tok/s  ~# s left (#-#)  alpha 20\nthought for # s, 655 tokens (5)";
    assert_eq!(without_clock(text), blanked);
}
