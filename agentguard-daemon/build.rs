//! Tells the daemon where the built kernel programs are.

use std::{env, fs, path::PathBuf};

fn main() {
    println!("cargo::rerun-if-env-changed=AGENTGUARD_EBPF_OBJECT");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = env::var_os("AGENTGUARD_EBPF_OBJECT").map_or_else(built_by_xtask, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    println!(
        "cargo::rustc-env=AGENTGUARD_EBPF_OBJECT={}",
        object.display()
    );
}

/// Where `cargo xtask build` puts the object. Until it does, an empty file stands in, so that
/// everything that needs no kernel builds without the kernel toolchain. It has to be a file: a
/// missing one would have cargo build the daemon again every time.
fn built_by_xtask() -> PathBuf {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = root.join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()));
    let directory = target.join("bpf");
    let object = directory.join("agentguard");
    if !object.exists() {
        fs::create_dir_all(&directory).expect("target/bpf can be made");
        fs::write(&object, []).expect("target/bpf can be written");
    }
    object
}
