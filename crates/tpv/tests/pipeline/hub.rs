//! A hub of a few small repositories on the loopback interface.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

/// The commit of every repository.
pub const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// The files of each repository, by name.
type Repos = BTreeMap<String, BTreeMap<String, Vec<u8>>>;

/// The files of a repository: names and bytes.
type Files<'a> = &'a [(&'a str, &'a [u8])];

pub struct Hub {
    endpoint: String,
}

impl Hub {
    /// A hub of model repositories, each with its files.
    pub fn start(repos: &[(&str, Files<'_>)]) -> Self {
        let files = |files: Files<'_>| files.iter().map(|(name, it)| ((*name).into(), it.to_vec())).collect();
        let repos: Arc<Repos> = Arc::new(repos.iter().map(|(repo, it)| ((*repo).into(), files(it))).collect());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let repos = Arc::clone(&repos);
                std::thread::spawn(move || while serve(&mut stream, &repos).is_some() {});
            }
        });
        Self { endpoint }
    }

    /// Lets the program find this hub.
    pub fn prepare<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("HF_ENDPOINT", &self.endpoint).env("HF_HUB_OFFLINE", "0").env("NO_PROXY", "127.0.0.1")
    }
}

/// Answers one request as the hub does for small files; `None` closes the connection.
fn serve(stream: &mut TcpStream, repos: &Repos) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().ok()?).lines();
    let first = lines.next()?.ok()?;
    while !lines.next()?.ok()?.is_empty() {}
    let mut words = first.split(' ');
    let (method, path) = (words.next()?, words.next()?);
    let (status, body, etag) = answer(path, repos).unwrap_or((404, Vec::new(), String::new()));
    let length = body.len();
    let head = format!("ETag: \"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nContent-Length: {length}\r\n");
    write!(stream, "HTTP/1.1 {status} Status\r\n{head}\r\n").ok()?;
    if method != "HEAD" {
        stream.write_all(&body).ok()?;
    }
    Some(())
}

fn answer(path: &str, repos: &Repos) -> Option<(u16, Vec<u8>, String)> {
    if let Some(repo) = path.strip_prefix("/api/models/").and_then(|rest| rest.strip_suffix("/revision/main")) {
        let siblings = repos.get(repo)?.keys().map(|name| serde_json::json!({ "rfilename": name }));
        let listing = serde_json::json!({ "sha": COMMIT, "siblings": siblings.collect::<Vec<_>>() });
        return Some((200, listing.to_string().into_bytes(), String::new()));
    }
    let (repo, name) = path.strip_prefix('/')?.split_once(&format!("/resolve/{COMMIT}/"))?;
    Some((200, repos.get(repo)?.get(name)?.clone(), format!("etag-of-{}-{name}", repo.replace('/', "-"))))
}
