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
    /// Connections of one client address; further ones are closed with status 503. None gives this machine's own
    /// addresses, behind which proxies are, as many as there are, and each other one [`Limits::SHARE_OF_CONNECTIONS`].
    pub max_connections_per_client: Option<usize>,
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

/// Something that a server cannot be started with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(String);

impl ServerConfig {
    /// Refuses what could never work, before anybody relies on it.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.access.check()?;
        self.limits.check()
    }
}

impl Access {
    fn check(&self) -> Result<(), ConfigError> {
        let wrong = |message: String| Err(ConfigError(message));
        if let Some(key) = &self.api_key
            && (key.trim() != key || key.is_empty() || !key.bytes().all(|byte| (b' '..=b'~').contains(&byte)))
        {
            return wrong("the API key must be one line of ASCII characters, or no client could send it".into());
        }
        if self.api_key.is_some() && self.open_to_all {
            return wrong(
                "--no_auth lets everybody in, and an API key is given (--api_key_file or TPV_API_KEY): leave one out"
                    .into(),
            );
        }
        if let Some(host) = self.allowed_hosts.iter().find(|host| host.is_empty() || host.contains([':', '/', '*'])) {
            return wrong(format!("--allow_host {host} is no name; give one such as gpu.example.org, without a port"));
        }
        match self.allowed_origins.iter().find(|origin| !is_origin(origin)) {
            Some(origin) => wrong(format!(
                "--allow_origin {origin} is no origin as browsers send it; give one such as https://chat.example.org or http://localhost:3000, without a path or a slash at the end"
            )),
            None => Ok(()),
        }
    }
}

/// Whether a browser may send this as `Origin`: small letters, no usual port, no path.
fn is_origin(text: &str) -> bool {
    let Some((scheme, host)) = text.split_once("://") else { return false };
    let usual_port = match scheme {
        "http" => ":80",
        "https" => ":443",
        _ => "::",
    };
    let is_scheme =
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_lowercase() || b"+-.".contains(&byte));
    let is_host = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte);
    is_scheme && !host.is_empty() && host.bytes().all(is_host) && !host.ends_with(usual_port) && !host.ends_with(':')
}

/// The longest time that a limit may be: a year.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

impl Limits {
    /// Connections of one client address where nothing else is said: a quarter of all.
    pub const SHARE_OF_CONNECTIONS: usize = 256;

    fn check(&self) -> Result<(), ConfigError> {
        for (flag, number) in [
            ("max_batch", self.max_batch),
            ("max_per_client", self.max_per_client),
            ("max_connections_per_client", self.max_connections_per_client.unwrap_or(usize::MAX)),
            ("max_body_bytes", self.max_body_bytes),
            ("max_new_tokens", self.max_new_tokens),
        ] {
            if number == 0 {
                return Err(ConfigError(format!("--{flag} 0 would refuse every request; give at least 1")));
            }
        }
        if self.request_time.is_zero() {
            return Err(ConfigError("--request_secs 0 would end every request at once; give at least 1".into()));
        }
        for (flag, time) in [("request_secs", self.request_time), ("grace_secs", self.grace)] {
            if time > LONGEST {
                let (given, most) = (time.as_secs(), LONGEST.as_secs());
                return Err(ConfigError(format!("--{flag} {given} is longer than a year; give at most {most}")));
            }
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_batch: 32,
            max_queue: 128,
            max_per_client: usize::MAX,
            max_connections_per_client: None,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(change: impl FnOnce(&mut ServerConfig)) -> Result<(), String> {
        let mut config = ServerConfig::default();
        change(&mut config);
        config.check().map_err(|error| error.to_string())
    }

    #[test]
    fn limits_that_refuse_everything_or_overflow_are_refused() {
        for (flag, change) in [
            ("--max_batch", (|limits| limits.max_batch = 0) as fn(&mut Limits)),
            ("--max_per_client", |limits| limits.max_per_client = 0),
            ("--max_connections_per_client", |limits| limits.max_connections_per_client = Some(0)),
            ("--max_body_bytes", |limits| limits.max_body_bytes = 0),
            ("--max_new_tokens", |limits| limits.max_new_tokens = 0),
            ("--request_secs", |limits| limits.request_time = Duration::ZERO),
            ("--request_secs", |limits| limits.request_time = Duration::from_secs(u64::MAX)),
            ("--grace_secs", |limits| limits.grace = Duration::from_secs(u64::MAX)),
        ] {
            let error = check(|config| change(&mut config.limits)).unwrap_err();
            assert!(error.starts_with(flag), "{error}");
        }
        let most = |config: &mut ServerConfig| {
            config.limits.max_queue = usize::MAX;
            config.limits.grace = Duration::ZERO;
            config.limits.request_time = LONGEST;
        };
        assert_eq!(check(most), Ok(()));
    }

    #[test]
    fn keys_and_names_that_no_client_sends_are_refused() {
        for key in ["", " ", "schlüssel", "two\nlines", "secret\n"] {
            let error = check(|config| config.access.api_key = Some(key.into())).unwrap_err();
            assert!(error.contains("API key") && !error.contains("secret"), "{error}");
        }
        assert_eq!(check(|config| config.access.api_key = Some("sk-a b_1".into())), Ok(()));
        let both = check(|config| (config.access.api_key, config.access.open_to_all) = (Some("sk".into()), true));
        assert!(both.unwrap_err().contains("leave one out"));
        let origin = |text: &str| check(|config| config.access.allowed_origins = vec![text.into()]);
        for text in ["https://chat.example", "http://localhost:3000", "http://[::1]:8000", "chrome-extension://abcdef"]
        {
            assert_eq!(origin(text), Ok(()), "{text}");
        }
        for text in [
            "*",
            "null",
            "",
            "chat.example",
            "https://",
            "https://chat.example/",
            "https://chat.example/path",
            "https://*.example",
            "https://Chat.example",
            "https://chat.example:443",
            "http://chat.example:80",
        ] {
            assert!(origin(text).unwrap_err().contains("--allow_origin"), "{text}");
        }
        assert!(check(|config| config.access.allowed_hosts = vec!["a.example:80".into()]).is_err());
    }
}
