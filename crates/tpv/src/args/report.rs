//! The flags of `tpv report`.

use clap::Args;
use std::path::PathBuf;

/// Flags of `tpv report`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct ReportArgs {
    /// A folder with what `tpv train`, `tpv sweep` or `tpv explain` wrote.
    pub folder: PathBuf,
}
