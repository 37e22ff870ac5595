//! Byte offsets of kernel structure members, from the BTF of the running kernel.
//!
//! aya relocates nothing for programs written in Rust, so the few offsets that they need are read
//! here and handed to them as constants. The format is that of `Documentation/bpf/btf.rst`.

use std::{fs, path::Path};

use super::KernelError;

/// Where a kernel built with `CONFIG_DEBUG_INFO_BTF` shows its types.
pub const KERNEL_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Members are followed into unnamed structures and unions only so deep.
const MAX_NESTING: u32 = 6;

const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;

/// The types of a kernel.
pub struct Types {
    data: Vec<u8>,
    /// Where each type starts in `data`; type ids count from 1.
    types: Vec<usize>,
    strings: usize,
}

impl Types {
    /// Reads the types of the running kernel.
    ///
    /// # Errors
    ///
    /// If the kernel has no BTF or it is not in the known format.
    pub fn of_running_kernel() -> Result<Self, KernelError> {
        let path = Path::new(KERNEL_BTF);
        let data = fs::read(path).map_err(|source| KernelError::File {
            path: path.into(),
            source,
        })?;
        Self::parse(data).ok_or_else(|| KernelError::Unsupported {
            what: "its own BTF".into(),
        })
    }

    fn parse(data: Vec<u8>) -> Option<Self> {
        let mut types = Self {
            data,
            types: vec![0],
            strings: 0,
        };
        let header = types.word(4)?;
        let start = header.checked_add(types.word(8)?)?;
        let end = start.checked_add(types.word(12)?)?;
        types.strings = header.checked_add(types.word(16)?)?;
        let mut at = start;
        while at < end {
            types.types.push(at);
            at += types.size_of_type(at)?;
        }
        Some(types)
    }

    fn size_of_type(&self, at: usize) -> Option<usize> {
        let (kind, members) = self.kind(at)?;
        Some(
            12 + match kind {
                // INT, VAR, DECL_TAG carry one word; ARRAY three.
                1 | 14 | 17 => 4,
                KIND_ARRAY => 12,
                // STRUCT, UNION, DATASEC, ENUM64 carry three words a member; ENUM and PROTO two.
                KIND_STRUCT | KIND_UNION | 15 | 19 => 12 * members,
                6 | 13 => 8 * members,
                _ => 0,
            },
        )
    }

    /// Byte offset of `member` in `structure`, also where it sits in an unnamed union inside.
    #[must_use]
    pub fn offset_of(&self, structure: &str, member: &str) -> Option<u64> {
        self.types.iter().skip(1).find_map(|&at| {
            let (kind, members) = self.kind(at)?;
            // A forward declaration or an empty namesake has no members.
            if kind == KIND_STRUCT && members > 0 && self.name(at)? == structure.as_bytes() {
                self.offset_in(at, member, 0)
            } else {
                None
            }
        })
    }

    fn offset_in(&self, at: usize, member: &str, nesting: u32) -> Option<u64> {
        let (kind, members) = self.kind(at)?;
        if nesting > MAX_NESTING || (kind != KIND_STRUCT && kind != KIND_UNION) {
            return None;
        }
        let has_bitfields = self.word(at + 4)? >> 31 == 1;
        (0..members).find_map(|index| {
            let entry = at + 12 + 12 * index;
            let raw = self.word(entry + 8)? as u64;
            let bytes = if has_bitfields { raw & 0xff_ffff } else { raw } / 8;
            let name = self.name(entry)?;
            if name == member.as_bytes() {
                return Some(bytes);
            }
            if !name.is_empty() {
                return None;
            }
            let inner = *self.types.get(self.word(entry + 4)?)?;
            Some(bytes + self.offset_in(inner, member, nesting + 1)?)
        })
    }

    /// Kind and number of members of the type at `at`.
    fn kind(&self, at: usize) -> Option<(u32, usize)> {
        let info = self.word(at + 4)?;
        Some((u32::try_from(info >> 24).ok()? & 0x1f, info & 0xffff))
    }

    /// The string that the first word at `at` names.
    fn name(&self, at: usize) -> Option<&[u8]> {
        let tail = self.data.get(self.strings.checked_add(self.word(at)?)?..)?;
        tail.split(|&byte| byte == 0).next()
    }

    fn word(&self, at: usize) -> Option<usize> {
        let bytes = self.data.get(at..at.checked_add(4)?)?;
        usize::try_from(u32::from_ne_bytes(bytes.try_into().ok()?)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::Types;

    #[test]
    fn offsets_of_the_running_kernel_are_plausible() {
        let types = Types::of_running_kernel().expect("the test kernel has BTF");
        assert_eq!(types.offset_of("list_head", "next"), Some(0));
        assert_eq!(types.offset_of("list_head", "prev"), Some(8));
        // `skc_family` sits behind unnamed unions; its place has been the same since Linux 3.13.
        assert_eq!(types.offset_of("sock_common", "skc_family"), Some(16));
        assert_eq!(types.offset_of("list_head", "nonsense"), None);
        assert_eq!(types.offset_of("no_such_structure", "next"), None);
    }

    #[test]
    fn bytes_that_are_no_btf_are_refused() {
        assert!(Types::parse(Vec::new()).is_none());
        assert!(Types::parse(vec![0xff; 64]).is_none());
    }
}
