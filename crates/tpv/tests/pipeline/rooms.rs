//! What a crate must not know, read from the manifests and the sources.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const CRATES: [&str; 5] = ["tpv-core", "tpv-data", "tpv-engine", "tpv-server", "tpv"];

fn crate_folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join(name)
}

/// The names in the tables of dependencies that ship, not those of tests alone.
fn dependencies(name: &str) -> BTreeSet<String> {
    let manifest = fs::read_to_string(crate_folder(name).join("Cargo.toml")).unwrap();
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]") && !line.contains("dev-");
        } else if inside && !line.starts_with('#') && !line.trim().is_empty() {
            names.insert(line.split(['.', ' ', '=']).next().unwrap().to_owned());
        }
    }
    assert!(!names.is_empty(), "{name}");
    names
}

/// Every source file of a crate with its text up to the unit tests.
fn sources(name: &str) -> Vec<(PathBuf, String)> {
    let mut folders = vec![crate_folder(name).join("src")];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let shipped = text.split("#[cfg(test)]\nmod tests {").next().unwrap().to_owned();
                sources.push((path, shipped));
            }
        }
    }
    assert!(!sources.is_empty());
    sources
}

fn refuse(crates: &[&str], words: &[&str], why: &str) {
    for (path, text) in crates.iter().flat_map(|name| sources(name)) {
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")) {
            let found = words.iter().find(|word| line.contains(*word));
            assert_eq!(found, None, "{}:{}: {why}", path.display(), number + 1);
        }
    }
}

#[test]
fn arrows_point_downwards() {
    let allowed: [(&str, &[&str]); 4] = [
        ("tpv-core", &[]),
        ("tpv-data", &["tpv-core"]),
        ("tpv-engine", &["tpv-core"]),
        ("tpv-server", &["tpv-core", "tpv-data", "tpv-engine"]),
    ];
    for (name, allowed) in allowed {
        let ours = dependencies(name).into_iter().filter(|it| it.starts_with("tpv"));
        for dependency in ours {
            assert!(allowed.contains(&dependency.as_str()), "{name} must not know {dependency}");
        }
    }
}

#[test]
fn the_core_knows_no_files_no_clock_no_network() {
    let words =
        ["std::fs", "std::net", "std::time", "std::env", "std::process", "std::thread", "rand::rng", "println!"];
    refuse(&["tpv-core"], &words, "the core is pure");
}

#[test]
fn each_kind_of_crate_is_known_in_one_room() {
    let owners: [(&str, &[&str]); 4] = [
        ("tpv-engine", &["candle", "tokenizers", "minijinja"]),
        ("tpv-server", &["axum", "hyper", "tokio", "http"]),
        ("tpv-data", &["ureq", "parquet", "tempfile"]),
        ("tpv", &["clap", "crossterm", "indicatif", "comfy-table", "ctrlc"]),
    ];
    for (owner, kinds) in owners {
        for name in CRATES.into_iter().filter(|&name| name != owner) {
            let foreign = dependencies(name).into_iter().find(|it| kinds.iter().any(|kind| it.starts_with(kind)));
            assert_eq!(foreign, None, "{name} must not know what {owner} is for");
        }
    }
}

#[test]
fn only_the_data_crate_writes_files() {
    let words = ["fs::write", "File::create", "OpenOptions", "fs::rename", "fs::remove_", "create_dir"];
    refuse(&["tpv-core", "tpv-engine", "tpv-server", "tpv"], &words, "files are written by tpv-data, all or nothing");
}
