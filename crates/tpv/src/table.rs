//! Plain tables for the terminal.

use comfy_table::{CellAlignment, Table, presets};
use tpv_core::bootstrap::Interval;

/// A figure with its interval, or a hyphen where there is none.
pub fn figure(interval: Option<Interval>, digits: usize) -> String {
    let text = |it: Interval| format!("{:.digits$} ({:.digits$} to {:.digits$})", it.value, it.low, it.high);
    interval.map_or_else(|| "-".into(), text)
}

/// A table with right-aligned columns but the first.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table.to_string()
}
