//! What a server is told before it starts: where it listens, who may ask, and how much.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;
use tpv_core::sampling::SamplingParams;

/// Everything that is decided before the model is there.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen; port 0 takes any free port.
    pub address: SocketAddr,
    /// The name of the model in requests and answers.
    pub model_name: String,
    /// Who may ask.
    pub access: Access,
    /// How much may be asked.
    pub limits: Limits,
    /// How tokens are drawn where a request does not say.
    pub sampling: SamplingParams,
    /// Whether the thinking is sent as `reasoning`, as `reasoning_content`, or as both.
    pub reasoning_fields: ReasoningFields,
    /// Prompts that the page offers.
    pub examples: Vec<String>,
}

/// Who may ask.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The key that requests must carry as `Authorization: Bearer KEY`.
    pub api_key: Option<String>,
    /// Listen on other addresses than loopback without a key.
    pub open_to_all: bool,
    /// Names, beside this machine's own and plain addresses, under which the server may be called (`Host`).
    pub allowed_hosts: Vec<String>,
    /// Origins of other pages whose scripts may call the server, e.g. `https://chat.example.org`.
    pub allowed_origins: Vec<String>,
}

/// How much may be asked.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Samples generated at once.
    pub max_batch: usize,
    /// Samples that may wait beside those; further requests get status 503.
    pub max_queue: usize,
    /// Samples in flight for one client address; further ones get status 429.
    pub max_per_client: usize,
    /// Bytes of a request's body.
    pub max_body_bytes: usize,
    /// Tokens that one sample may generate.
    pub max_new_tokens: usize,
    /// How long a request may take.
    pub request_time: Duration,
    /// How long a client may take to send its request, or to read what it was sent.
    pub transfer_time: Duration,
    /// Silence after which a stream gets a comment, so that nobody takes it for dead.
    pub keep_alive: Duration,
    /// How long running requests may go on after the server was asked to stop.
    pub grace: Duration,
    /// The least time that a step of the decode loop takes, so that small models can be watched; zero is full speed.
    pub step_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch: 32,
            max_queue: 128,
            max_per_client: usize::MAX,
            max_body_bytes: 1 << 20,
            max_new_tokens: 32_768,
            request_time: Duration::from_secs(3600),
            transfer_time: Duration::from_secs(30),
            keep_alive: Duration::from_secs(10),
            grace: Duration::from_secs(10),
            step_time: Duration::ZERO,
        }
    }
}

/// The fields that carry the thinking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningFields {
    /// `reasoning` and `reasoning_content`.
    #[default]
    Both,
    /// `reasoning` alone, as vLLM and Ollama send it.
    Reasoning,
    /// `reasoning_content` alone, as llama.cpp and DeepSeek send it.
    ReasoningContent,
}

impl ReasoningFields {
    /// The names of the fields.
    pub fn names(self) -> &'static [&'static str] {
        match self {
            Self::Both => &["reasoning", "reasoning_content"],
            Self::Reasoning => &["reasoning"],
            Self::ReasoningContent => &["reasoning_content"],
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            address: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
            model_name: "thinker".into(),
            access: Access::default(),
            limits: Limits::default(),
            sampling: SamplingParams { temperature: 0.6, top_p: 0.95, top_k: 0 },
            reasoning_fields: ReasoningFields::default(),
            examples: Vec::new(),
        }
    }
}
