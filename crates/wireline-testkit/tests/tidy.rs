//! Rules of the house that the compiler does not know. Each failure says which line broke which rule.
#![allow(clippy::unwrap_used, reason = "a test that cannot read the tree has failed")]

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Every file under `dir` with this extension, as paths from the root.
fn files(dir: &str, extension: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root().join(dir)];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") {
                dirs.push(path);
            } else if path.extension().is_some_and(|found| found == extension) {
                found.push(path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    assert!(!found.is_empty(), "no .{extension} files under {dir}");
    found
}

/// The names in one section of a manifest.
fn dependencies(manifest: &str, section: &str) -> Vec<String> {
    let text = read(manifest);
    let section = text.split(&format!("\n[{section}]\n")).nth(1).unwrap_or_default();
    let section = section.split("\n[").next().unwrap_or_default();
    let names = section.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    names.filter(|name| !name.is_empty() && !name.starts_with('#')).map(str::to_owned).collect()
}

#[test]
fn crates_import_downwards_only() {
    for (name, allowed) in [
        ("wireline-proto", &[][..]),
        ("wireline", &["wireline-proto"]),
        ("wireline-hub", &["wireline"]),
        ("wireline-cli", &["wireline", "wireline-hub", "wireline-proto"]),
        ("wireline-testkit", &["wireline-proto"]),
    ] {
        for dependency in dependencies(&format!("crates/{name}/Cargo.toml"), "dependencies") {
            assert!(
                !dependency.starts_with("wireline") || allowed.contains(&&*dependency),
                "{name} must not depend on {dependency}"
            );
        }
    }
}

#[test]
fn the_protocol_depends_on_nothing_that_does_io() {
    let allowed = ["base64", "bytes", "http", "sha1", "simdutf8", "thiserror", "zlib-rs"];
    for dependency in dependencies("crates/wireline-proto/Cargo.toml", "dependencies") {
        assert!(allowed.contains(&&*dependency), "wireline-proto must not depend on {dependency}");
    }
}

#[test]
fn a_node_does_no_io() {
    let mut node = files("crates/wireline-hub/src/node", "rs");
    node.push("crates/wireline-hub/src/node.rs".to_owned());
    for file in node {
        let text = read(&file);
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for word in
            ["tokio", "wireline::", "async ", "Instant::now", "SystemTime", "Mutex", "thread", "entropy"]
        {
            let line = code.lines().find(|line| line.contains(word) && !line.trim_start().starts_with("//"));
            assert!(line.is_none(), "{file} has {word:?}: {line:?}");
        }
    }
}

/// The modules of the protocol that `file` names, by `crate::` or through what `lib.rs` re-exports.
fn imported_modules(file: &str) -> Vec<&'static str> {
    const EXPORTS: [(&str, &str); 26] = [
        ("CloseCode", "close_code"),
        ("Config", "config"),
        ("Keepalive", "config"),
        ("Connection", "connection"),
        ("Compress", "deflate"),
        ("Deflate", "deflate"),
        ("DeflateParameters", "deflate"),
        ("deflate", "deflate"),
        ("CloseFrameError", "error"),
        ("ProtocolError", "error"),
        ("SendError", "error"),
        ("Cause", "event"),
        ("CloseFrame", "event"),
        ("Closed", "event"),
        ("Event", "event"),
        ("Initiator", "event"),
        ("Message", "event"),
        ("MessageKind", "event"),
        ("Negotiated", "handshake"),
        ("Role", "handshake"),
        ("Opcode", "opcode"),
        ("frame", "frame"),
        ("mask", "mask"),
        ("utf8", "utf8"),
        ("event", "event"),
        ("error", "error"),
    ];
    let text = read(file);
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let code: String = code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut modules = Vec::new();
    for import in code.split("crate::").skip(1) {
        let import = match import.strip_prefix('{') {
            Some(group) => group.split("};").next().unwrap_or_default(),
            None => import.split([';', ' ', ',', '(', ')', '<', '>']).next().unwrap_or_default(),
        };
        for word in import.split(|c: char| !c.is_alphanumeric() && c != '_') {
            modules.extend(EXPORTS.iter().filter(|(name, _)| *name == word).map(|(_, module)| *module));
        }
    }
    modules
}

#[test]
fn the_protocols_modules_import_downwards_only() {
    let anything =
        ["close_code", "config", "deflate", "error", "event", "frame", "handshake", "mask", "opcode", "utf8"];
    for (module, allowed) in [
        ("opcode", &[][..]),
        ("close_code", &[]),
        ("mask", &[]),
        ("utf8", &[]),
        ("config", &["deflate"]),
        ("frame", &["opcode", "mask"]),
        ("error", &["close_code", "frame"]),
        ("event", &["close_code", "error", "frame", "opcode", "event"]),
        ("deflate", &["error", "event", "frame", "mask"]),
        ("handshake", &["deflate"]),
        ("connection", &anything),
    ] {
        let file = format!("crates/wireline-proto/src/{module}.rs");
        for import in imported_modules(&file) {
            assert!(allowed.contains(&import), "{file} must not import {import}");
        }
    }
}

#[test]
fn one_loop_does_io() {
    let allowed = [
        "crates/wireline-proto/src/lib.rs",
        "crates/wireline-proto/src/connection.rs",
        "crates/wireline/src/driver/core.rs",
    ];
    for file in files("crates", "rs") {
        let is_for_tests = file.contains("/tests/") || file.contains("/examples/");
        if !is_for_tests && !file.starts_with("crates/wireline-testkit/") {
            let names_it = read(&file).contains("poll_transmit");
            assert!(
                !names_it || allowed.contains(&&*file),
                "{file} names poll_transmit: is it a second driver?"
            );
        }
    }
}

#[test]
fn unsafe_code_lives_in_small_modules_that_argue_for_it() {
    let allowed = [
        "crates/wireline/src/driver/ring.rs",
        "crates/wireline/src/message/text.rs",
        "crates/wireline-testkit/src/allocations.rs",
    ];
    for file in files("crates", "rs").into_iter().filter(|file| !file.ends_with("tests/tidy.rs")) {
        let text = read(&file);
        let allows = text.contains("allow(unsafe_code");
        assert!(!allows || allowed.contains(&&*file), "{file} allows unsafe code");
    }
}

#[test]
fn every_limit_stands_in_the_readme() {
    let config = read("crates/wireline-proto/src/config.rs");
    let fields = config.split("pub struct Config {").nth(1).unwrap().split('}').next().unwrap();
    let readme = read("README.md");
    let names: Vec<_> = fields.lines().filter_map(|line| line.trim().strip_prefix("pub ")).collect();
    assert!(names.len() > 5, "the fields of Config were not found");
    for name in names {
        let name = name.split(':').next().unwrap();
        assert!(readme.contains(&format!("`{name}`")), "README's limits table lacks `{name}`");
    }
}

#[test]
fn files_are_named_for_what_they_hold() {
    for file in files("crates", "rs") {
        let name = Path::new(&file).file_name().unwrap().to_str().unwrap();
        assert!(!["mod.rs", "util.rs", "utils.rs", "helpers.rs", "common.rs"].contains(&name), "{file}");
    }
}

#[test]
fn the_compiler_that_the_readme_names_is_the_manifests() {
    let manifest = read("Cargo.toml");
    let version = manifest.split("rust-version = \"").nth(1).unwrap().split('"').next().unwrap();
    assert!(read("README.md").contains(&format!("Rust {version}")), "README must name Rust {version}");
}

/// The rows of PARITY.md: ids, and what shows that each has its equivalent.
fn parity() -> Vec<(String, String)> {
    let text = read("PARITY.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let cells = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    cells
        .filter(|cells| cells[0] != "id")
        .map(|cells| match &cells[..] {
            [id, _, _, shown_by] => (id.trim().to_owned(), shown_by.clone()),
            _ => panic!("PARITY.md: {cells:?} are not four cells"),
        })
        .collect()
}

#[test]
fn every_test_that_parity_names_is_there() {
    for (id, shown_by) in parity() {
        if ["not yet", "does not apply"].contains(&&*shown_by) {
            continue;
        }
        for shown_by in shown_by.split(", ") {
            let name = shown_by.trim_matches('`').split_once("::");
            let (file, test) = name.unwrap_or_else(|| panic!("PARITY.md, {id}: {shown_by:?} is no test"));
            let text = read(&format!("crates/{file}"));
            let before = text.split_once(&format!("fn {test}(")).map(|(before, _)| before);
            let before = before.unwrap_or_else(|| panic!("PARITY.md, {id}: {file} has no {test}"));
            let attribute = before.rsplit("#[").next().unwrap_or_default();
            assert!(attribute.contains("test"), "PARITY.md, {id}: {test} is not a test");
        }
    }
}

#[test]
fn parity_has_a_row_for_everything_that_npm_websocket_offers() {
    let mut found = Vec::new();
    for (ids, _) in parity() {
        for id in ids.split(", ").filter(|id| !id.is_empty()) {
            let (first, last) = id.split_once('–').unwrap_or((id, id));
            assert_eq!(first[..1], last[..1], "PARITY.md: {id}");
            let number = |id: &str| id[1..].parse::<u8>().unwrap_or_else(|_| panic!("PARITY.md: {id}"));
            found.extend((number(first)..=number(last)).map(|number| (first[..1].to_owned(), number)));
        }
    }
    let kinds = [("S", 35), ("R", 24), ("C", 38), ("F", 6), ("K", 16), ("T", 8), ("W", 8), ("Q", 25)];
    let expected =
        kinds.iter().flat_map(|(kind, last)| (1..=*last).map(|number| ((*kind).to_owned(), number)));
    let mut expected: Vec<_> = expected.collect();
    found.sort();
    expected.sort();
    assert_eq!(found, expected, "each id has one row");
}

/// The code blocks of a page, with their languages.
fn code_blocks(page: &str) -> Vec<(String, String)> {
    let text = read(page);
    let blocks = text.split("\n```").skip(1).step_by(2).map(|block| {
        let (language, code) = block.split_once('\n').unwrap_or_else(|| panic!("{page}: {block:?}"));
        (language.to_owned(), code.to_owned())
    });
    blocks.collect()
}

#[test]
fn what_the_migration_guides_show_is_run_by_the_tests() {
    for page in files("docs/migration", "md") {
        let blocks = code_blocks(&page);
        assert!(!blocks.is_empty(), "{page} shows no code");
        for (language, code) in blocks {
            let run = match &*language {
                "rust" => files("crates/wireline/tests/migration", "rs"),
                "js" => files("conformance/migration", "mjs"),
                other => panic!("{page}: who runs {other:?}?"),
            };
            assert!(run.iter().any(|file| read(file).contains(&code)), "{page}: no test runs\n{code}");
        }
    }
}
