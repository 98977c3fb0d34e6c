//! Asking the hub: what a repository holds, and its files.

use super::cache::{RepoCache, is_commit, is_relative};
use super::environment::HubEnvironment;
use super::{DownloadProgress, Repo, RepoKind};
use crate::atomic;
use crate::error::{DataError, Result};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{Response, StatusCode};
use ureq::{Agent, Body};

/// How often a file is asked for when the connection breaks, with growing pauses.
const ATTEMPTS: u32 = 5;
/// How often a file is asked for when what comes is wrong.
const WRONG_ATTEMPTS: u32 = 2;
/// How often the hub is asked about a repository or a file when it is too busy to answer, with growing pauses.
const QUESTIONS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);
const CHUNK_BYTES: usize = 1 << 18;
const INFO_LIMIT_BYTES: u64 = 64 << 20;

/// A client of one hub.
#[derive(Debug)]
pub struct Client {
    endpoint: String,
    token: Option<String>,
    following: Agent,
    staying: Agent,
}

/// What the hub says about a repository at a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoInfo {
    /// The commit of the revision.
    pub commit: String,
    /// The names of its files.
    pub files: Vec<String>,
}

/// What the hub says about a file.
struct FileInfo {
    etag: String,
    bytes: u64,
}

/// Why one attempt of a download ended early.
enum Interruption {
    /// The connection broke: ask for the rest.
    Broken(DataError),
    /// What came cannot be right: start again.
    Wrong(DataError),
    /// No use trying again.
    Final(DataError),
}

impl Client {
    /// A client for the hub that the environment describes.
    pub fn new(environment: &HubEnvironment) -> Self {
        Self {
            endpoint: environment.endpoint.clone(),
            token: environment.token.clone(),
            following: agent(10),
            staying: agent(0),
        }
    }

    /// Asks for the commit and the file names of a repository.
    pub fn repo_info(&self, repo: &Repo) -> Result<RepoInfo> {
        #[derive(Deserialize)]
        struct Sibling {
            rfilename: String,
        }
        #[derive(Deserialize)]
        struct Answer {
            sha: String,
            siblings: Vec<Sibling>,
        }
        let kind = match repo.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        let url = format!("{}/api/{kind}/{}/revision/{}", self.endpoint, repo.id, escape(&repo.revision, false));
        let mut response = until_answered(|| self.get(&self.following, &url, None))?;
        if response.status() != StatusCode::OK {
            return Err(refusal(&url, repo, &mut response));
        }
        let text = response.body_mut().with_config().limit(INFO_LIMIT_BYTES).read_to_string();
        let text = text.map_err(|error| self.unreachable(&url, error))?;
        let answer: Answer = serde_json::from_str(&text).map_err(|error| nonsense(&url, &error.to_string()))?;
        if !is_commit(&answer.sha) {
            return Err(nonsense(&url, "its commit is not a hash"));
        }
        let files = answer.siblings.into_iter().map(|it| it.rfilename).filter(|name| is_relative(name)).collect();
        Ok(RepoInfo { commit: answer.sha, files })
    }

    /// Downloads a file of a commit into the cache and returns its place in the snapshot.
    pub fn download(
        &self,
        repo: &Repo,
        cache: &RepoCache,
        commit: &str,
        file: &str,
        progress: &mut dyn DownloadProgress,
    ) -> Result<PathBuf> {
        let in_snapshot = cache.snapshot_folder(commit).join(file);
        if in_snapshot.exists() {
            return Ok(in_snapshot);
        }
        let url = self.file_url(repo, commit, file);
        let info = self.file_info(&url, repo)?;
        let blob = cache.blob(&info.etag);
        if !blob.is_file() {
            progress.start(file, info.bytes, present_bytes(&incomplete(&blob)));
            self.fetch_blob(&url, repo, &info, &blob, progress)?;
            progress.finish();
        }
        cache.link(commit, file, &blob)
    }

    fn file_url(&self, repo: &Repo, commit: &str, file: &str) -> String {
        let prefix = match repo.kind {
            RepoKind::Model => "",
            RepoKind::Dataset => "datasets/",
        };
        format!("{}/{prefix}{}/resolve/{commit}/{}", self.endpoint, repo.id, escape(file, true))
    }

    /// Asks about a file. The hub states hash and length of large files in the redirect to where they lie.
    fn file_info(&self, url: &str, repo: &Repo) -> Result<FileInfo> {
        let mut target = url.to_string();
        for _ in 0..5 {
            let ask =
                || self.authorised(self.staying.head(&target)).call().map_err(|error| self.unreachable(url, error));
            let mut response = until_answered(ask)?;
            let location = header(&response, "location").map(str::to_string);
            match (response.status().is_redirection(), location, header(&response, "x-linked-etag")) {
                // A renamed repository redirects to its new path on the same host.
                (true, Some(path), None) if path.starts_with('/') => target = format!("{}{path}", self.endpoint),
                (true, _, Some(_)) => return read_file_info(url, &response),
                (false, ..) if response.status().is_success() => return read_file_info(url, &response),
                _ => return Err(refusal(url, repo, &mut response)),
            }
        }
        Err(nonsense(url, "it redirects without end"))
    }

    fn fetch_blob(
        &self,
        url: &str,
        repo: &Repo,
        info: &FileInfo,
        blob: &Path,
        progress: &mut dyn DownloadProgress,
    ) -> Result<()> {
        let path = incomplete(blob);
        let io_error = |source| DataError::io(&path, "write the download", source);
        atomic::create_folder(blob.parent().unwrap_or(Path::new(".")))?;
        let mut file = OpenOptions::new().read(true).append(true).create(true).open(&path).map_err(io_error)?;
        wait_for_others(&file).map_err(io_error)?;
        if blob.is_file() {
            return Ok(()); // somebody else's download, waited for above
        }
        let (mut broken, mut wrong) = (0, 0);
        while let Err(interruption) = self.fetch_rest(url, repo, info, &mut file, &path, progress) {
            match interruption {
                Interruption::Final(error) => return Err(error),
                Interruption::Broken(error) => {
                    broken += 1;
                    if broken == ATTEMPTS {
                        return Err(error);
                    }
                    std::thread::sleep(PAUSE * broken);
                }
                Interruption::Wrong(error) => {
                    wrong += 1;
                    file.set_len(0).map_err(io_error)?;
                    if wrong == WRONG_ATTEMPTS {
                        return Err(error);
                    }
                }
            }
        }
        atomic::rename_into_place(&file, &path, blob)
    }

    fn fetch_rest(
        &self,
        url: &str,
        repo: &Repo,
        info: &FileInfo,
        file: &mut File,
        path: &Path,
        progress: &mut dyn DownloadProgress,
    ) -> Result<(), Interruption> {
        let io_error = |source| Interruption::Final(DataError::io(path, "write the download", source));
        let present = file.seek(SeekFrom::End(0)).map_err(io_error)?;
        if present < info.bytes {
            let mut response = self.get(&self.following, url, Some(present)).map_err(Interruption::Broken)?;
            match response.status() {
                StatusCode::PARTIAL_CONTENT if continues_at(&response, present) => {}
                StatusCode::OK => file.set_len(0).map_err(io_error)?,
                status if is_busy(status) => {
                    return Err(Interruption::Broken(refusal(url, repo, &mut response)));
                }
                _ => return Err(Interruption::Final(refusal(url, repo, &mut response))),
            }
            self.copy(url, &mut response, file, path, progress)?;
        }
        check_blob(url, info, file, path)
    }

    fn copy(
        &self,
        url: &str,
        response: &mut Response<Body>,
        file: &mut File,
        path: &Path,
        progress: &mut dyn DownloadProgress,
    ) -> Result<(), Interruption> {
        let mut reader = response.body_mut().with_config().limit(u64::MAX).reader();
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            let count = match reader.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Interruption::Broken(self.unreachable(url, error.into()))),
            };
            file.write_all(&chunk[..count])
                .map_err(|source| Interruption::Final(DataError::io(path, "write the download", source)))?;
            progress.advance(count as u64);
        }
    }

    fn get(&self, agent: &Agent, url: &str, from: Option<u64>) -> Result<Response<Body>> {
        let mut request = self.authorised(agent.get(url));
        if let Some(from) = from.filter(|&from| from > 0) {
            request = request.header("Range", format!("bytes={from}-"));
        }
        request.call().map_err(|error| self.unreachable(url, error))
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("Authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn unreachable(&self, url: &str, error: ureq::Error) -> DataError {
        DataError::Hub {
            url: url.into(),
            what: format!("cannot reach the hub ({error})"),
            next_step: format!(
                "check the network, set HF_ENDPOINT to a mirror (now {}), or give the path of a local copy",
                self.endpoint
            ),
        }
    }
}

/// Whether the hub asks for another try: it has failed, or has too many requests.
fn is_busy(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Asks again while the hub says that it is too busy.
fn until_answered(ask: impl Fn() -> Result<Response<Body>>) -> Result<Response<Body>> {
    for asked in 1..QUESTIONS {
        let response = ask()?;
        if !is_busy(response.status()) {
            return Ok(response);
        }
        std::thread::sleep(PAUSE * asked);
    }
    ask()
}

fn agent(redirects: u32) -> Agent {
    Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(redirects)
        .max_redirects_will_error(redirects > 0)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(concat!("tpv/", env!("CARGO_PKG_VERSION")))
        // Lengths and ranges are those of the file itself, not of a compressed form.
        .accept_encoding("identity")
        .timeout_connect(Some(Duration::from_secs(20)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_per_read(Some(Duration::from_secs(60)))
        .build()
        .into()
}

fn header<'a>(response: &'a Response<Body>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

fn read_file_info(url: &str, response: &Response<Body>) -> Result<FileInfo> {
    let etag = header(response, "x-linked-etag").or_else(|| header(response, "etag"));
    let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_string());
    let etag = etag.filter(|etag| is_relative(etag) && !etag.contains('/'));
    let bytes = header(response, "x-linked-size").or_else(|| header(response, "content-length"));
    match (etag, bytes.and_then(|bytes| bytes.parse().ok())) {
        (Some(etag), Some(bytes)) => Ok(FileInfo { etag, bytes }),
        _ => Err(nonsense(url, "it states no usable ETag or length")),
    }
}

fn incomplete(blob: &Path) -> PathBuf {
    let name = blob.file_name().unwrap_or_default().to_string_lossy();
    blob.with_file_name(format!("{name}.incomplete"))
}

fn present_bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

/// Holds the file until it is closed; a file system without locks is used without them.
fn wait_for_others(file: &File) -> io::Result<()> {
    match file.lock() {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(()),
        other => other,
    }
}

fn continues_at(response: &Response<Body>, present: u64) -> bool {
    header(response, "content-range").is_some_and(|range| range.trim().starts_with(&format!("bytes {present}-")))
}

/// Compares length and, where the ETag is one, SHA-256 of a finished download.
fn check_blob(url: &str, info: &FileInfo, file: &mut File, path: &Path) -> Result<(), Interruption> {
    let io_error = |source| Interruption::Final(DataError::io(path, "read the download", source));
    let length = file.seek(SeekFrom::End(0)).map_err(io_error)?;
    let damaged = |what: String| {
        let next_step = "run the command again; if it persists, the hub or a proxy on the way sends damaged files";
        DataError::Hub { url: url.into(), what, next_step: next_step.into() }
    };
    if length < info.bytes {
        let what = format!("the download ended after {length} of {} bytes", info.bytes);
        return Err(Interruption::Broken(damaged(what)));
    }
    if length > info.bytes {
        return Err(Interruption::Wrong(damaged(format!("{length} bytes came, expected {}", info.bytes))));
    }
    if info.etag.len() != 64 {
        return Ok(()); // small files carry a git hash; their length was compared
    }
    let found = sha256(file).map_err(io_error)?;
    if found == info.etag {
        return Ok(());
    }
    Err(Interruption::Wrong(damaged(format!(
        "the download is damaged: its SHA-256 is {found}, expected {}",
        info.etag
    ))))
}

fn sha256(file: &mut File) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let count = file.read(&mut chunk)?;
        if count == 0 {
            return Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect());
        }
        hasher.update(&chunk[..count]);
    }
}

/// Percent-encodes what a path segment cannot hold; slashes stay if they separate segments.
fn escape(text: &str, keep_slashes: bool) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) || (keep_slashes && byte == b'/');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// The error for an answer that is not a success, in words.
fn refusal(url: &str, repo: &Repo, response: &mut Response<Body>) -> DataError {
    let status = response.status().as_u16();
    let id = &repo.id;
    let (what, next_step) = match (status, header(response, "x-error-code").unwrap_or_default()) {
        (_, "GatedRepo") => (
            format!("access to {id} is restricted"),
            "accept its terms on the hub's page and set HF_TOKEN to a token of that account".to_string(),
        ),
        (_, "RevisionNotFound") => {
            (format!("{id} has no revision {}", repo.revision), "name a branch, tag or commit that it has".into())
        }
        (_, "EntryNotFound") => (format!("{id} has no such file"), "name another repository or revision".into()),
        (401 | 403 | 404, _) => (
            format!("the hub knows no {id} that may be read with this token (status {status})"),
            "check the spelling; if it is private, set HF_TOKEN".into(),
        ),
        (429, _) => ("the hub asks for fewer requests (status 429)".into(), "wait a while, or set HF_TOKEN".into()),
        _ => (format!("the hub answered with status {status}"), "try again later".into()),
    };
    let what = match header(response, "x-error-message") {
        Some(message) => format!("{what} (\"{message}\")"),
        None => what,
    };
    DataError::Hub { url: url.into(), what, next_step }
}

fn nonsense(url: &str, what: &str) -> DataError {
    DataError::Hub {
        url: url.into(),
        what: format!("this does not look like the hub's answer ({what})"),
        next_step: "check HF_ENDPOINT".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_for_urls() {
        assert_eq!(escape("main/a b#1.json", true), "main/a%20b%231.json");
        assert_eq!(escape("feature/x", false), "feature%2Fx");
    }
}
