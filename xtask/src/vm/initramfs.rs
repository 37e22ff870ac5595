//! The guest's root: this program as its init, the tests, and what they start.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::{guest, kernel::Kernel};
use crate::{build, command, workspace};

/// Programs of the host that the tests start.
const PROGRAMS: [&str; 2] = ["ip", "sleep"];

/// A root directory, which is packed into an archive for each kernel.
pub(crate) struct Initramfs {
    root: PathBuf,
}

impl Initramfs {
    /// Builds the tests and puts all but a kernel's modules in place.
    pub(crate) fn stage() -> Result<Self> {
        let agentguard = build::run(&build::Options::default())?;
        // This builds the probe, too.
        let tests = build::test_program("agentguard-tests", "e2e")?;
        let probe = agentguard.with_file_name("agentguard-probe");

        let directory = workspace::target().join("vm");
        let staged = Self {
            root: directory.join("root"),
        };
        workspace::clear(&staged.root)?;
        // These are mounted on.
        for directory in ["dev", "proc", "sys", "tmp"] {
            fs::create_dir_all(staged.root.join(directory))?;
        }
        let init = std::env::current_exe().context("cannot find this program")?;
        staged.place(&init, "init")?;
        staged.place(&agentguard, guest::AGENTGUARD)?;
        staged.place(&tests, guest::TESTS)?;
        // The tests look for it beside their own directory, as cargo lays it out.
        staged.place(&probe, guest::PROBE)?;
        for name in PROGRAMS {
            let program = command::find(name).with_context(|| format!("no {name} here"))?;
            staged.place(&program, &format!("bin/{name}"))?;
        }
        Ok(staged)
    }

    /// Adds the modules of this kernel, in place of another's, packs it all and returns the archive.
    pub(crate) fn pack(&self, kernel: &Kernel) -> Result<PathBuf> {
        let archive = self
            .root
            .with_file_name(format!("initramfs-{}", kernel.release));
        let modules = self.root.join(guest::MODULES);
        workspace::clear(&modules)?;
        for (number, module) in kernel.modules.iter().enumerate() {
            let name = module.file_name().context("a module has a name")?;
            // They are loaded in the order of their names.
            let name = format!("{number:02}-{}", name.to_string_lossy());
            copy(module, &modules.join(name))?;
        }
        command::run(
            Command::new("sh")
                .args(["-c", "find . | cpio --create --format=newc --quiet >\"$0\""])
                .arg(&archive)
                .current_dir(&self.root),
        )?;
        Ok(archive)
    }

    /// Copies a program and the libraries that it is linked to.
    fn place(&self, program: &Path, to: &str) -> Result<()> {
        copy(program, &self.root.join(to))?;
        let linked = command::output(Command::new("ldd").arg(program))?;
        for library in libraries(&linked) {
            let to = self.root.join(library.trim_start_matches('/'));
            if !to.exists() {
                copy(Path::new(library), &to)?;
            }
        }
        Ok(())
    }
}

/// The files in an output of `ldd`: `name => /path (address)`, and `/path (address)` for the loader.
fn libraries(linked: &str) -> impl Iterator<Item = &str> {
    linked
        .split_whitespace()
        .filter(|word| word.starts_with('/'))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let directory = to.parent().context("it has a directory")?;
    fs::create_dir_all(directory)?;
    ensure!(from.is_file(), "{} is not there", from.display());
    fs::copy(from, to)
        .map(drop)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))
}

#[cfg(test)]
mod tests {
    use super::libraries;

    #[test]
    fn every_file_that_a_program_is_linked_to_is_found() {
        let linked = "\tlinux-vdso.so.1 (0x00007ffc)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f01)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f02)\n";
        let found: Vec<_> = libraries(linked).collect();
        assert_eq!(
            found,
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
        assert_eq!(libraries("\tstatically linked\n").count(), 0);
    }
}
