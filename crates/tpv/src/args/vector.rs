//! Which vector.

use clap::Args;

/// The vector of the paper's scripts.
pub const DEFAULT_VECTOR: &str = "tpv_model/tpv_linear_weights.npy";
/// Its folder, where `tpv train` writes.
pub const DEFAULT_VECTOR_FOLDER: &str = "tpv_model";

/// Which vector.
#[derive(Args, Clone, Default)]
#[command(rename_all = "snake_case")]
pub struct TpvArgs {
    /// tpv.safetensors, a .npy vector, a folder that `tpv train` wrote, or a name in the vector library; by default the
    /// library's vector of the model, else the bundled one.
    #[arg(long, alias = "intervention_vector_path")]
    pub tpv: Option<String>,
}
