//! One page that needs nothing but itself.

use super::plot::{Plot, escape};

/// A part of a report.
pub struct Section {
    /// The file name of its picture and numbers, without ending.
    pub name: &'static str,
    /// What the reader should take from it.
    pub text: String,
    /// The picture.
    pub plot: Plot,
}

const STYLE: &str = ":root{color-scheme:light dark}body{font-family:sans-serif;max-width:1250px;margin:2em auto;padding:0 1em;color:#222;background:#fff}\
    svg,p{max-width:860px}svg{width:100%;height:auto;display:block}.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px;white-space:nowrap}\
    td,th{padding:2px 9px;border-bottom:1px solid #ddd;text-align:right}td:first-child,th:first-child{text-align:left}section{margin-bottom:2.5em}\
    @media (prefers-color-scheme:dark){body{color:#ddd;background:#16181c}td,th{border-color:#363a42}}\
    @media print{@page{size:landscape}.wide{overflow:visible}table{font-size:7px}td,th{padding:1px 4px}section{break-inside:avoid}}";

/// The page: title, what it is about, sections, and tables at the end where there are some.
pub fn html(title: &str, about: &[String], sections: &[Section], tables: &[String]) -> String {
    let about: String = about.iter().map(|line| format!("<p>{}</p>\n", escape(line))).collect();
    let body: String = sections
        .iter()
        .map(|section| format!("<section>{}<p>{}</p></section>\n", section.plot.svg(), escape(&section.text)))
        .collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>{0}</title><style>{STYLE}</style></head>\n\
         <body><h1>{0}</h1>\n{about}{body}{1}</body></html>\n",
        escape(title),
        tables.concat()
    )
}

/// A table of text.
pub fn table(caption: &str, header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let cells = |tag: &str, cells: &mut dyn Iterator<Item = &str>| -> String {
        cells.map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    let head = cells("th", &mut header.iter().copied());
    let rows: String = rows
        .into_iter()
        .map(|row| format!("<tr>{}</tr>\n", cells("td", &mut row.iter().map(String::as_str))))
        .collect();
    format!("<h2>{}</h2><div class=\"wide\"><table><tr>{head}</tr>\n{rows}</table></div>\n", escape(caption))
}
