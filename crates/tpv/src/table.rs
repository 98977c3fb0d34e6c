//! Plain tables for the terminal.

use comfy_table::{CellAlignment, LineStyle, Table, TableStyle};
use tpv_core::bootstrap::Interval;

/// A line below the header, none between rows.
const STYLE: TableStyle = TableStyle::new()
    .header_separator(LineStyle::none().fill('─').junction('─'))
    .bottom_border(LineStyle::none().fill('─').junction('─'));

/// A number with so many digits after the point; what rounds to zero has no sign.
pub fn number(value: f64, digits: usize) -> String {
    match format!("{value:.digits$}") {
        text if text.starts_with('-') && !text.contains(|c| matches!(c, '1'..='9')) => text[1..].to_owned(),
        text => text,
    }
}

/// A figure with its interval in few characters, such as `0.040 [.034, .047]`, or a hyphen where there is none.
pub fn figure(interval: Option<Interval>, digits: usize) -> String {
    let bound = |value: f64| match number(value, digits) {
        text if value.abs() < 1.0 && digits > 0 => text.replacen("0.", ".", 1),
        text => text,
    };
    let text = |it: Interval| format!("{} [{}, {}]", number(it.value, digits), bound(it.low), bound(it.high));
    interval.map_or_else(|| "-".into(), text)
}

/// A table with right-aligned columns but the first.
pub fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(STYLE).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((1, 0));
        if at > 0 {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_short_and_have_no_negative_zero() {
        let text = |value, low, high, digits| figure(Some(Interval { value, low, high }), digits);
        assert_eq!(text(0.0401, 0.034, 0.0471, 3), "0.040 [.034, .047]");
        assert_eq!(text(-0.0001, -0.5, 1.25, 3), "0.000 [-.500, 1.250]");
        assert_eq!(text(12.0, 0.4, 20.0, 0), "12 [0, 20]");
        assert_eq!(figure(None, 3), "-");
    }
}
