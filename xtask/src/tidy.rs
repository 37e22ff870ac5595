//! Rules on the source that neither the compiler nor clippy knows: who may use what, and the shape
//! of files.

use std::{fs, path::Path};

use crate::workspace;

/// A Rust file of this repository.
struct Source {
    /// Its path from the root.
    path: String,
    /// Its lines without comments.
    lines: Vec<String>,
}

impl Source {
    /// Whether it lies below one of these paths; `x/kernel` covers `x/kernel.rs` and `x/kernel/`.
    fn is_below(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            self.path
                .strip_prefix(place)
                .is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
        })
    }

    /// Whether it holds nothing but tests.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/")
            || self.path.starts_with("tests/e2e/")
    }

    fn file_name(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }
}

fn sources() -> Vec<Source> {
    let mut sources = Vec::new();
    collect(workspace::root(), &mut sources);
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn collect(directory: &Path, sources: &mut Vec<Source>) {
    for entry in fs::read_dir(directory).expect("the directory can be read") {
        let path = entry.expect("the entry can be read").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if path.is_dir() {
            if name != "target" && !name.starts_with('.') {
                collect(&path, sources);
            }
        } else if name.ends_with(".rs") {
            let text = fs::read_to_string(&path).expect("the source can be read");
            let path = path
                .strip_prefix(workspace::root())
                .expect("it is below the root");
            sources.push(Source {
                path: path.to_string_lossy().into_owned(),
                lines: text.lines().map(without_comment).collect(),
            });
        }
    }
}

fn without_comment(line: &str) -> String {
    line.split("//").next().unwrap_or_default().to_owned()
}

/// Asserts that none of these words is in a source that `applies` picks.
fn assert_absent(words: &[&str], applies: impl Fn(&Source) -> bool, rule: &str) {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| applies(source)) {
        for (number, line) in source.lines.iter().enumerate() {
            if words.iter().any(|word| has_word(line, word)) {
                found.push(format!("{}:{}: {}", source.path, number + 1, line.trim()));
            }
        }
    }
    assert!(found.is_empty(), "{rule}:\n{}", found.join("\n"));
}

/// Whether a word stands in a line by itself, not as a part of a longer name.
fn has_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(start, _)| {
        !line[..start].ends_with(is_name) && !line[start + word.len()..].starts_with(is_name)
    })
}

const TIDY: &str = "xtask/src/tidy.rs";

#[test]
fn words_are_found_whole() {
    assert!(has_word("use aya::Ebpf;", "aya"));
    assert!(!has_word("use aya_ebpf::EbpfContext;", "aya"));
    assert!(!has_word("the malaya", "aya"));
}

#[test]
fn only_the_kernel_module_uses_aya() {
    assert_absent(
        &["aya"],
        |source| {
            !source.is_below(&[
                "agentguard-common/src/pod",
                "agentguard-daemon/src/kernel",
                "agentguard-ebpf",
                TIDY,
            ])
        },
        "aya is used by agentguard-daemon/src/kernel alone",
    );
}

#[test]
fn policy_and_audit_are_pure() {
    assert_absent(
        &[
            "tokio",
            "std::fs",
            "fs::File",
            "SystemTime::now",
            "Instant::now",
            "Timestamp::now",
        ],
        |source| {
            source.is_below(&[
                "agentguard-daemon/src/policy",
                "agentguard-daemon/src/audit",
            ]) && !source.is_below(&["agentguard-daemon/src/policy/source"])
                && !source.is_test()
        },
        "policy and audit get bytes and time from their caller",
    );
}

#[test]
fn the_common_crate_does_no_input_or_output() {
    assert_absent(
        &["std", "serde", "tokio"],
        |source| source.is_below(&["agentguard-common"]) && !source.is_test(),
        "agentguard-common is what both sides share, and the kernel has no std",
    );
}

#[test]
fn stages_in_the_kernel_do_not_use_hooks() {
    assert_absent(
        &["hooks"],
        |source| {
            source.is_below(&["agentguard-ebpf/src"])
                && !source.is_below(&["agentguard-ebpf/src/hooks", "agentguard-ebpf/src/main"])
        },
        "hooks use the stages, not the other way round",
    );
}

#[test]
fn sinks_know_records_only() {
    assert_absent(
        &[
            "crate::kernel",
            "crate::policy",
            "crate::identity",
            "crate::control",
            "crate::daemon",
        ],
        |source| source.is_below(&["agentguard-daemon/src/sink"]),
        "a sink writes what it is given",
    );
}

#[test]
fn nothing_imports_the_command_line() {
    assert_absent(
        &["crate::cli"],
        |source| {
            source.is_below(&["agentguard-daemon/src"])
                && !source.is_below(&["agentguard-daemon/src/cli"])
        },
        "the command line is the outermost layer",
    );
}

#[test]
fn build_and_tests_know_the_daemon_as_a_program_only() {
    assert_absent(
        &["agentguard_daemon"],
        |source| source.is_below(&["xtask", "tests/harness", "tests/probe"]) && source.path != TIDY,
        "only the built binary is driven",
    );
}

#[test]
fn unsafe_code_stays_in_its_places() {
    assert_absent(
        &["unsafe"],
        |source| {
            !source.is_below(&[
                "agentguard-common/src/pod",
                // One socket option that no crate wraps.
                "agentguard-daemon/src/identity/launch/caller",
                "agentguard-daemon/src/kernel",
                "agentguard-ebpf",
                "tests/harness",
                "tests/probe",
                "xtask/src/bench/system",
                TIDY,
            ])
        },
        "unsafe code needs a place where it is expected",
    );
}

#[test]
fn nothing_is_left_to_do() {
    assert_absent(
        &["todo!", "unimplemented!", "dbg!"],
        |source| source.path != TIDY,
        "unfinished",
    );
}

#[test]
fn files_are_named_for_what_they_hold() {
    let vague = [
        "mod.rs",
        "utils.rs",
        "util.rs",
        "helpers.rs",
        "helper.rs",
        "types.rs",
        "manager.rs",
        "misc.rs",
    ];
    let found: Vec<_> = sources()
        .into_iter()
        .filter(|source| vague.contains(&source.file_name()))
        .map(|source| source.path)
        .collect();
    assert!(found.is_empty(), "names that say nothing: {found:?}");
}

#[test]
fn files_are_short() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| !source.is_test()) {
        let tests = source.lines.iter().position(|line| line == "#[cfg(test)]");
        let length = tests.unwrap_or(source.lines.len());
        if length > 500 {
            found.push(format!("{}: {length} lines", source.path));
        }
    }
    assert!(
        found.is_empty(),
        "longer than 500 lines without tests: {found:?}"
    );
}

#[test]
fn paths_in_the_documents_exist() {
    let mut found = Vec::new();
    for document in ["README.md", "ARCHITECTURE.md"] {
        let text = fs::read_to_string(workspace::root().join(document))
            .unwrap_or_else(|error| panic!("{document}: {error}"));
        let paths = named_paths(&text);
        let missing = paths
            .iter()
            .filter(|path| !workspace::root().join(path).exists());
        found.extend(missing.map(|path| format!("{document}: {path}")));
    }
    assert!(found.is_empty(), "paths that do not exist: {found:?}");
}

/// Paths of this repository in a Markdown text: targets of links, and code that begins with a
/// directory of ours.
fn named_paths(text: &str) -> Vec<&str> {
    let links = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', '#']).next())
        .filter(|link| !link.is_empty() && !link.contains("://"));
    let code = text.split('`').skip(1).step_by(2).filter(|code| {
        let ours = ["agentguard-", "xtask/", "tests/", "demo/", ".ci/"];
        code.contains('/')
            && !code.contains([' ', '*', '{', '<', '@', '\n'])
            && ours.iter().any(|start| code.starts_with(start))
    });
    links.chain(code).collect()
}

#[test]
fn paths_are_found_in_links_and_code() {
    let text = "[a](agentguard-common/src/lib.rs#L3), [b](https://example.com), [c](#here), \
                `xtask/src/main.rs`, `cargo xtask test`, `/etc/agentguard`, `tests/e2e/{a,b}.rs`";
    assert_eq!(
        named_paths(text),
        ["agentguard-common/src/lib.rs", "xtask/src/main.rs"]
    );
}
