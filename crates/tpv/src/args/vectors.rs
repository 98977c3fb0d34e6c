//! The flags of `tpv vectors`.

use super::RunArgs;
use clap::{Args, Subcommand};

/// What `tpv vectors` does.
#[derive(Subcommand)]
#[command(rename_all = "snake_case")]
pub enum VectorsCommand {
    /// Every vector with its model.
    #[command(after_help = "Example: tpv vectors list --json")]
    List,
    /// Where a vector comes from.
    #[command(after_help = "Example: tpv vectors show default")]
    Show(VectorNameArgs),
    /// Add a vector: a file, a folder, a .npy, or org/repo on the hub.
    #[command(after_help = "Example: tpv vectors import vector --name mine")]
    Import(VectorImportArgs),
    /// Remove a vector.
    #[command(after_help = "Example: tpv vectors remove mine")]
    Remove(VectorNameArgs),
}

/// Names a vector of the library.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct VectorNameArgs {
    /// Its name.
    #[arg(default_value = "default")]
    pub name: String,
    /// Its model, where several have a vector of that name: the name, or the first letters of the fingerprint.
    #[arg(long)]
    pub model: Option<String>,
}

/// Flags of `tpv vectors import`.
#[derive(Args, Clone)]
#[command(rename_all = "snake_case")]
pub struct VectorImportArgs {
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or org/repo on the hub.
    pub source: String,
    /// The model it belongs to; needed where the file does not say, checked where it does.
    #[arg(long)]
    pub model: Option<String>,
    /// Its name in the library.
    #[arg(long, default_value = "default")]
    pub name: String,
    /// Replace a vector of that name.
    #[arg(long)]
    pub replace: bool,
    /// The engine.
    #[command(flatten)]
    pub run: RunArgs,
}
