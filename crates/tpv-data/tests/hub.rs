//! The hub client against a small server on the loopback interface that speaks the hub's endpoints.

#![expect(clippy::unwrap_used, reason = "a test ends where it fails")]

use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tpv_data::hub::environment::HubEnvironment;
use tpv_data::hub::{DownloadProgress, Hub, Silent};
use tpv_data::model_files::{ModelFiles, ModelForm, resolve_model, resolve_text};
use tpv_data::problems::{DatasetSpec, Fields, ProblemSet};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How the server misbehaves.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Breaks the connection after that many bytes of a file, once.
    Break(usize),
    /// Sends other bytes of the right length, that many times.
    Corrupt(usize),
    /// Sends whole files whatever range is asked for.
    IgnoreRanges,
    /// Sends two bytes too many, always.
    TooLong,
    /// Answers with this status, once.
    Refuse(u16),
}

#[derive(Default)]
struct Plan {
    /// Path of a repository below `/api/`, e.g. `models/org/name`, to its files.
    repos: BTreeMap<String, BTreeMap<String, Vec<u8>>>,
    token: Option<String>,
    faults: Vec<Fault>,
    /// Status, error code, error message for everything.
    refuse: Option<(u16, &'static str, &'static str)>,
    /// `METHOD path range authorised` of every request.
    log: Vec<String>,
}

struct Server {
    endpoint: String,
    plan: Arc<Mutex<Plan>>,
}

impl Server {
    fn start(plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let plan = Arc::new(Mutex::new(plan));
        let shared = plan.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || while serve(&stream, &shared).is_some() {});
            }
        });
        Self { endpoint, plan }
    }

    fn with_model(files: &[(&str, &[u8])]) -> Self {
        let files = files.iter().map(|(name, bytes)| (name.to_string(), bytes.to_vec())).collect();
        Self::start(Plan { repos: [("models/org/tiny".to_string(), files)].into(), ..Plan::default() })
    }

    fn fault(&self, fault: Fault) {
        self.plan.lock().unwrap().faults.push(fault);
    }

    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.plan.lock().unwrap().log)
    }

    fn hub(&self, cache: &Path) -> Hub {
        Hub::new(HubEnvironment { cache: cache.into(), token: None, endpoint: self.endpoint.clone(), offline: false })
    }
}

struct Request {
    method: String,
    path: String,
    headers: BTreeMap<String, String>,
}

fn read_request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_string(), words.next()?.to_string());
    let mut headers = BTreeMap::new();
    for line in lines {
        let line = line.ok()?;
        if line.is_empty() {
            return Some(Request { method, path, headers });
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_string());
    }
    None
}

/// Answers one request; `None` closes the connection.
fn serve(stream: &TcpStream, plan: &Mutex<Plan>) -> Option<()> {
    let request = read_request(stream)?;
    let mut plan = plan.lock().unwrap();
    let range = request.headers.get("range").cloned().unwrap_or_default();
    let authorised = request.headers.get("authorization").cloned();
    plan.log.push(format!("{} {} {range}", request.method, request.path).trim().to_string());
    if let Some((status, code, message)) = plan.refuse {
        let headers = format!("X-Error-Code: {code}\r\nX-Error-Message: {message}\r\n");
        return respond(stream, status, &headers, b"", &request);
    }
    if plan.token.is_some() && authorised != plan.token.as_ref().map(|token| format!("Bearer {token}")) {
        return respond(stream, 401, "", b"", &request);
    }
    if let Some(rest) = request.path.strip_prefix("/api/") {
        let (repo, revision) = rest.split_once("/revision/")?;
        let Some(files) = plan.repos.get(repo) else {
            return respond(stream, 404, "X-Error-Code: RepoNotFound\r\n", b"", &request);
        };
        if !["main", "v%2F1", COMMIT].contains(&revision) {
            return respond(stream, 404, "X-Error-Code: RevisionNotFound\r\n", b"", &request);
        }
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({ "rfilename": name })).collect();
        let body = serde_json::json!({ "sha": COMMIT, "siblings": siblings }).to_string();
        return respond(stream, 200, "", body.as_bytes(), &request);
    }
    let large = request.path.starts_with("/cdn/");
    let path = request.path.trim_start_matches("/cdn").trim_start_matches('/');
    let path = if path.starts_with("datasets/") { path.to_string() } else { format!("models/{path}") };
    let (repo, rest) = path.split_once("/resolve/")?;
    let (commit, name) = rest.split_once('/')?;
    let Some(bytes) = plan.repos.get(repo).and_then(|files| files.get(name)).filter(|_| commit == COMMIT).cloned()
    else {
        return respond(stream, 404, "X-Error-Code: EntryNotFound\r\n", b"", &request);
    };
    let hash: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    if name.ends_with(".safetensors") && !large {
        // Large files lie elsewhere; the redirect states their hash and length.
        let headers = format!(
            "Location: /cdn{}\r\nX-Linked-Etag: \"{hash}\"\r\nX-Linked-Size: {}\r\nX-Repo-Commit: {COMMIT}\r\n",
            request.path,
            bytes.len()
        );
        return respond(stream, 302, &headers, b"Found", &request);
    }
    let etag = if large { hash } else { hash[..40].to_string() };
    let headers = format!("ETag: W/\"{etag}\"\r\nX-Repo-Commit: {COMMIT}\r\nAccept-Ranges: bytes\r\n");
    send_file(stream, &mut plan, &headers, bytes, &range, &request)
}

fn send_file(
    mut stream: &TcpStream,
    plan: &mut Plan,
    headers: &str,
    mut bytes: Vec<u8>,
    range: &str,
    request: &Request,
) -> Option<()> {
    let start = range.strip_prefix("bytes=").and_then(|range| range.strip_suffix('-')).and_then(|at| at.parse().ok());
    let start = start.filter(|_| !plan.faults.contains(&Fault::IgnoreRanges));
    if request.method == "GET" {
        for index in 0..plan.faults.len() {
            match plan.faults[index] {
                Fault::Break(after) => {
                    plan.faults.remove(index);
                    write!(stream, "HTTP/1.1 200 OK\r\n{headers}Content-Length: {}\r\n\r\n", bytes.len()).ok()?;
                    stream.write_all(&bytes[..after]).ok()?;
                    return None;
                }
                Fault::Corrupt(times) => {
                    bytes.iter_mut().for_each(|byte| *byte ^= 1);
                    plan.faults[index] = Fault::Corrupt(times - 1);
                    if times == 1 {
                        plan.faults.remove(index);
                    }
                    break;
                }
                Fault::TooLong => bytes.extend(b"!!"),
                Fault::Refuse(status) => {
                    plan.faults.remove(index);
                    return respond(stream, status, "", b"", request);
                }
                Fault::IgnoreRanges => {}
            }
        }
    }
    match start {
        Some(start) => {
            let headers = format!("{headers}Content-Range: bytes {start}-{}/{}\r\n", bytes.len() - 1, bytes.len());
            respond(stream, 206, &headers, &bytes[start..], request)
        }
        None => respond(stream, 200, headers, &bytes, request),
    }
}

fn respond(mut stream: &TcpStream, status: u16, headers: &str, body: &[u8], request: &Request) -> Option<()> {
    write!(stream, "HTTP/1.1 {status} Status\r\n{headers}Content-Length: {}\r\n\r\n", body.len()).ok()?;
    if request.method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}

const TINY: [(&str, &[u8]); 4] = [
    ("config.json", b"{}"),
    ("tokenizer.json", b"{ }"),
    ("model.safetensors", b"not really weights, but bytes with a hash"),
    ("README.md", b"not wanted"),
];

fn resolve(hub: &Hub) -> Result<ModelFiles, String> {
    resolve_model("org/tiny", None, hub, &mut Silent).map_err(|error| error.to_string())
}

fn folder_of(files: &ModelFiles) -> &Path {
    match &files.form {
        ModelForm::Folder(folder) => folder,
        ModelForm::Gguf(path) => panic!("expected a folder, got {}", path.display()),
    }
}

#[test]
fn a_model_is_downloaded_once_and_then_found_in_the_cache() {
    let server = Server::with_model(&TINY);
    let cache = tempfile::tempdir().unwrap();
    let files = resolve(&server.hub(cache.path())).unwrap();
    assert_eq!(files.revision.as_deref(), Some(COMMIT));
    for (name, bytes) in &TINY[..3] {
        assert_eq!(&fs::read(folder_of(&files).join(name)).unwrap(), bytes);
    }
    assert!(!folder_of(&files).join("README.md").exists());
    assert!(server.log().iter().any(|line| line.starts_with("GET /cdn/org/tiny/resolve")));

    let environment = HubEnvironment { offline: true, ..server.hub(cache.path()).environment().clone() };
    assert_eq!(resolve(&Hub::new(environment)).unwrap(), files);
    assert_eq!(resolve(&server.hub(cache.path())).unwrap(), files);
    assert!(server.log().is_empty(), "the cache is asked first");
}

#[test]
fn what_another_program_left_out_of_the_cache_is_fetched_once() {
    let files: [(&str, &[u8]); 4] = [
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("model.safetensors", b"w"),
        ("tokenizer_config.json", b"{\"add_bos_token\": true}"),
    ];
    let server = Server::with_model(&files);
    let cache = tempfile::tempdir().unwrap();
    let hub = server.hub(cache.path());
    let folder = folder_of(&resolve(&hub).unwrap()).to_path_buf();
    fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    server.log();
    resolve(&hub).unwrap();
    assert_eq!(fs::read(folder.join("tokenizer_config.json")).unwrap(), files[3].1);
    assert!(server.log().iter().all(|request| !request.contains("model.safetensors")));
    resolve(&hub).unwrap();
    assert!(server.log().is_empty(), "what the repository lacks is not asked for again");
    fs::remove_file(folder.join("tokenizer_config.json")).unwrap();
    server.plan.lock().unwrap().refuse = Some((401, "", ""));
    resolve(&hub).unwrap(); // without the hub what there is has to do
}

#[test]
fn for_a_tokenizer_no_weights_are_fetched() {
    let files: [(&str, &[u8]); 3] =
        [("tokenizer.json", b"{}"), ("model.safetensors", b"weights"), ("config.json", b"{}")];
    let server = Server::with_model(&files);
    let cache = tempfile::tempdir().unwrap();
    let folder = resolve_text("org/tiny", &server.hub(cache.path()), &mut Silent).unwrap();
    assert!(folder.join("tokenizer.json").is_file() && folder.join("config.json").is_file());
    assert!(!folder.join("model.safetensors").exists());
    let whole = resolve(&server.hub(cache.path())).unwrap();
    assert!(folder_of(&whole).join("model.safetensors").is_file(), "what is missing comes when it is needed");
}

#[test]
fn the_cache_has_the_layout_of_the_python_libraries() {
    let server = Server::with_model(&TINY);
    let cache = tempfile::tempdir().unwrap();
    resolve(&server.hub(cache.path())).unwrap();
    let repo = cache.path().join("models--org--tiny");
    assert_eq!(fs::read_to_string(repo.join("refs/main")).unwrap(), COMMIT);
    let link = repo.join("snapshots").join(COMMIT).join("model.safetensors");
    let blob = link.canonicalize().unwrap();
    assert_eq!(blob.parent().unwrap(), repo.join("blobs").canonicalize().unwrap());
    assert_eq!(blob.file_name().unwrap().len(), 64);
    #[cfg(unix)]
    assert!(fs::read_link(link).unwrap().starts_with("../../blobs"));
    let names: Vec<_> = fs::read_dir(repo.join("blobs")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("incomplete")), "{names:?}");
}

#[test]
fn shards_are_those_that_the_index_names() {
    let index =
        br#"{"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}"#;
    let server = Server::with_model(&[
        ("config.json", b"{}"),
        ("tokenizer.json", b"{}"),
        ("chat_template.jinja", b"{{ messages }}"),
        ("model.safetensors.index.json", index),
        ("model-1.safetensors", b"one"),
        ("model-2.safetensors", b"two"),
        ("other.safetensors", b"not named"),
    ]);
    let cache = tempfile::tempdir().unwrap();
    let files = resolve(&server.hub(cache.path())).unwrap();
    let folder = folder_of(&files);
    let weights = ModelFiles::weight_files(folder).unwrap();
    assert_eq!(weights, [folder.join("model-1.safetensors"), folder.join("model-2.safetensors")]);
    assert!(folder.join("chat_template.jinja").is_file() && !folder.join("other.safetensors").exists());
    server.log();
    resolve(&server.hub(cache.path())).unwrap();
    assert!(server.log().is_empty());
}

#[test]
fn a_revision_with_a_slash_and_a_commit_work() {
    let server = Server::with_model(&TINY);
    let cache = tempfile::tempdir().unwrap();
    for revision in ["v/1", COMMIT] {
        let files = resolve_model("org/tiny", Some(revision), &server.hub(cache.path()), &mut Silent).unwrap();
        assert_eq!(files.revision.as_deref(), Some(COMMIT));
    }
    let error = resolve_model("org/tiny", Some("nope"), &server.hub(cache.path()), &mut Silent).unwrap_err();
    assert!(error.to_string().contains("org/tiny has no revision nope"), "{error}");
}

#[test]
fn the_token_is_sent() {
    let server = Server::with_model(&TINY);
    server.plan.lock().unwrap().token = Some("secret".into());
    let cache = tempfile::tempdir().unwrap();
    let error = resolve(&server.hub(cache.path())).unwrap_err();
    assert!(error.contains("may be read with this token (status 401)") && error.contains("set HF_TOKEN"), "{error}");
    let environment = server.hub(cache.path()).environment().clone();
    resolve(&Hub::new(HubEnvironment { token: Some("secret".into()), ..environment })).unwrap();
}

#[test]
fn refusals_are_told_in_words() {
    let server = Server::with_model(&TINY);
    let cache = tempfile::tempdir().unwrap();
    for (status, code, message, expected) in [
        (403, "GatedRepo", "Access to model org/tiny is restricted", "accept its terms"),
        (404, "RepoNotFound", "Repository not found", "check the spelling"),
        (429, "", "", "wait a while"),
        (503, "", "", "status 503"),
    ] {
        server.plan.lock().unwrap().refuse = Some((status, code, message));
        let error = resolve(&server.hub(cache.path())).unwrap_err();
        assert!(error.contains(expected) && error.contains(message), "{error}");
    }
    server.plan.lock().unwrap().refuse = None;
    let error = resolve_model("org/absent", None, &server.hub(cache.path()), &mut Silent).unwrap_err().to_string();
    assert!(error.contains("/api/models/org/absent/revision/main: the hub knows no org/absent"), "{error}");
}

#[test]
fn a_repository_without_safetensors_is_refused_by_name() {
    let server = Server::with_model(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("pytorch_model.bin", b"")]);
    let cache = tempfile::tempdir().unwrap();
    let error = resolve(&server.hub(cache.path())).unwrap_err();
    assert!(error.contains("org/tiny at main: it has no weights in safetensors form"), "{error}");
}

#[test]
fn a_broken_connection_is_resumed_where_it_broke() {
    #[derive(Default)]
    struct Count(u64, u64);
    impl DownloadProgress for Count {
        fn start(&mut self, _: &str, total_bytes: u64, present_bytes: u64) {
            self.0 += total_bytes;
            self.1 += present_bytes;
        }
        fn advance(&mut self, bytes: u64) {
            self.1 += bytes;
        }
        fn finish(&mut self) {}
        fn missed(&mut self, _: &str) {}
    }
    let weights: Vec<u8> = (0..200_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let server =
        Server::with_model(&[("config.json", b""), ("tokenizer.json", b"{}"), ("model.safetensors", &weights)]);
    server.plan.lock().unwrap().repos.get_mut("models/org/tiny").unwrap().insert("config.json".into(), b"{}".to_vec());
    let cache = tempfile::tempdir().unwrap();
    let mut progress = Count::default();
    resolve_model("org/tiny", None, &server.hub(cache.path()), &mut progress).unwrap();
    assert_eq!(progress.0, progress.1);

    let cache = tempfile::tempdir().unwrap();
    server.log();
    server.fault(Fault::Break(1));
    let files = resolve(&server.hub(cache.path())).unwrap();
    assert_eq!(fs::read(folder_of(&files).join("model.safetensors")).unwrap(), weights);
    assert!(server.log().contains(&format!("GET /org/tiny/resolve/{COMMIT}/config.json bytes=1-")), "resumed");
}

#[test]
fn a_hub_that_asks_for_patience_in_mid_download_gets_it() {
    for status in [429, 503] {
        let server = Server::with_model(&TINY);
        let cache = tempfile::tempdir().unwrap();
        server.fault(Fault::Refuse(status));
        let files = resolve(&server.hub(cache.path())).unwrap();
        assert_eq!(fs::read(folder_of(&files).join("model.safetensors")).unwrap(), TINY[2].1, "{status}");
        server.fault(Fault::Refuse(403));
        assert!(resolve(&server.hub(tempfile::tempdir().unwrap().path())).is_err(), "a refusal is final");
    }
}

#[test]
fn an_earlier_attempt_is_continued() {
    let server = Server::with_model(&TINY);
    let cache = tempfile::tempdir().unwrap();
    let hash: String = Sha256::digest(TINY[2].1).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = cache.path().join("models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{hash}.incomplete")), &TINY[2].1[..10]).unwrap();
    let files = resolve(&server.hub(cache.path())).unwrap();
    assert_eq!(fs::read(folder_of(&files).join("model.safetensors")).unwrap(), TINY[2].1);
    assert!(server.log().iter().any(|line| line.starts_with("GET /org/tiny") && line.ends_with("bytes=10-")));
}

#[test]
fn a_server_without_ranges_sends_the_file_again() {
    let server = Server::with_model(&TINY);
    server.fault(Fault::IgnoreRanges);
    let cache = tempfile::tempdir().unwrap();
    let hash: String = Sha256::digest(TINY[2].1).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = cache.path().join("models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{hash}.incomplete")), b"old rest").unwrap();
    let files = resolve(&server.hub(cache.path())).unwrap();
    assert_eq!(fs::read(folder_of(&files).join("model.safetensors")).unwrap(), TINY[2].1);
}

#[test]
fn a_wrong_rest_of_an_earlier_attempt_is_thrown_away() {
    let server = Server::with_model(&TINY);
    let cache = tempfile::tempdir().unwrap();
    let hash: String = Sha256::digest(TINY[2].1).iter().map(|byte| format!("{byte:02x}")).collect();
    let blobs = cache.path().join("models--org--tiny/blobs");
    fs::create_dir_all(&blobs).unwrap();
    fs::write(blobs.join(format!("{hash}.incomplete")), b"garbage").unwrap();
    let files = resolve(&server.hub(cache.path())).unwrap();
    assert_eq!(fs::read(folder_of(&files).join("model.safetensors")).unwrap(), TINY[2].1);
}

#[test]
fn a_damaged_download_is_refused_and_not_kept_as_good() {
    let server =
        Server::with_model(&[("config.json", b"{}"), ("tokenizer.json", b"{}"), ("model.safetensors", b"weights")]);
    let cache = tempfile::tempdir().unwrap();
    server.fault(Fault::TooLong);
    let error = resolve(&server.hub(cache.path())).unwrap_err();
    assert!(error.contains("config.json: 4 bytes came, expected 2"), "{error}");
    server.plan.lock().unwrap().faults.clear();
    server.fault(Fault::Corrupt(4)); // the two small files, then both attempts at the weights
    let error = resolve(&server.hub(cache.path())).unwrap_err();
    assert!(error.contains("the download is damaged: its SHA-256 is"), "{error}");
    server.plan.lock().unwrap().faults.clear();
    let files = resolve(&server.hub(cache.path())).unwrap();
    assert_eq!(fs::read(folder_of(&files).join("model.safetensors")).unwrap(), b"weights");
}

#[test]
fn no_hub_at_the_address_is_told_with_the_next_step() {
    let cache = tempfile::tempdir().unwrap();
    let endpoint = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let hub = Hub::new(HubEnvironment { cache: cache.path().into(), token: None, endpoint, offline: false });
    let error = resolve(&hub).unwrap_err();
    assert!(error.contains("cannot reach the hub") && error.contains("HF_ENDPOINT"), "{error}");
}

#[test]
fn something_else_at_the_address_is_noticed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = read_request(&stream);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n<html></html>");
        }
    });
    let cache = tempfile::tempdir().unwrap();
    let hub = Hub::new(HubEnvironment { cache: cache.path().into(), token: None, endpoint, offline: false });
    assert!(resolve(&hub).unwrap_err().contains("does not look like the hub's answer"));
}

#[test]
fn file_names_that_lead_out_of_the_cache_are_ignored() {
    let mut files: Vec<(&str, &[u8])> = TINY.to_vec();
    files.push(("../../../evil/chat_template.jinja", b"evil"));
    let server = Server::with_model(&files);
    let cache = tempfile::tempdir().unwrap();
    resolve(&server.hub(cache.path())).unwrap();
    assert!(!server.log().iter().any(|line| line.contains("evil")));
}

#[test]
fn data_sets_come_from_the_hub_and_then_from_the_cache() {
    let jsonl = b"{\"problem\": \"1+1?\", \"answer\": \"2\"}\n{\"problem\": \"2+2?\", \"answer\": \"4\"}\n";
    let files = [("test.jsonl".to_string(), jsonl.to_vec()), ("README.md".to_string(), vec![])];
    let repos = [("datasets/HuggingFaceH4/MATH-500".to_string(), files.into())];
    let server = Server::start(Plan { repos: repos.into(), ..Plan::default() });
    let cache = tempfile::tempdir().unwrap();
    let load = |hub: &Hub| ProblemSet::load(&DatasetSpec::Math500, &Fields::default(), hub, &mut Silent);
    let set = load(&server.hub(cache.path())).unwrap();
    assert_eq!((set.name.as_str(), set.problems.len()), ("math500", 2));
    assert_eq!(set.problems[1].answer.as_deref(), Some("4"));
    server.log();
    assert_eq!(load(&server.hub(cache.path())).unwrap(), set);
    assert!(server.log().is_empty());

    let environment = HubEnvironment { offline: true, ..server.hub(cache.path()).environment().clone() };
    let error = ProblemSet::load(&DatasetSpec::Gsm8k, &Fields::default(), &Hub::new(environment), &mut Silent);
    let error = error.unwrap_err().to_string();
    assert!(error.starts_with("the data set openai/gsm8k (main) is not in the cache"), "{error}");
}
