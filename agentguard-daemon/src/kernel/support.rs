//! What the running kernel offers, found by trying.

use aya::{
    maps::MapType,
    programs::ProgramType,
    sys::{BpfHelper, is_helper_supported, is_map_supported, is_program_supported},
};

use super::btf::Types;

/// The oldest kernel that is tried, and the oldest that is recommended.
const FLOOR: (u32, u32) = (5, 15);

/// One thing that agentguard uses of the kernel.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Feature {
    /// Its name.
    pub name: String,
    /// Whether this kernel has it.
    pub available: bool,
    /// Whether enforce mode needs it.
    pub required: bool,
    /// What is lost without it, in one line.
    pub without: String,
}

/// The kernel as found.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Support {
    /// `uname -r`.
    pub release: String,
    /// Whether the release is 5.15 or later.
    pub above_floor: bool,
    /// Each feature.
    pub features: Vec<Feature>,
}

impl Support {
    /// The required features that are missing.
    pub fn missing(&self) -> impl Iterator<Item = &Feature> {
        self.features
            .iter()
            .filter(|feature| feature.required && !feature.available)
    }
}

/// Asks the running kernel, by loading tiny programs and making tiny maps. Needs root; without it
/// everything seems missing.
#[must_use]
pub fn probe() -> Support {
    let release = nix::sys::utsname::uname()
        .map(|name| name.release().to_string_lossy().into_owned())
        .unwrap_or_default();
    Support {
        above_floor: is_above_floor(&release),
        features: features(),
        release,
    }
}

fn features() -> Vec<Feature> {
    let program = |kind| is_program_supported(kind).is_ok_and(|supported| supported);
    let map = |kind| is_map_supported(kind).is_ok_and(|supported| supported);
    let helper = |kind, helper| is_helper_supported(kind, helper).is_ok_and(|supported| supported);
    let feature = |name: &str, available, required, without: &str| Feature {
        name: name.into(),
        available,
        required,
        without: without.into(),
    };
    vec![
        feature(
            "cgroup/connect, sendmsg, bind",
            program(ProgramType::CgroupSockAddr),
            true,
            "no early refusal: denied calls time out",
        ),
        feature(
            "cgroup_skb",
            program(ProgramType::CgroupSkb),
            true,
            "packets are not judged",
        ),
        feature(
            "cgroup/sock_create, sock_release",
            program(ProgramType::CgroupSock),
            true,
            "sockets carry no tag; raw sockets and MPTCP are not refused",
        ),
        feature(
            "sock_ops",
            program(ProgramType::SockOps),
            true,
            "TCP flows have no end",
        ),
        feature(
            "BTF of the kernel",
            Types::of_running_kernel().is_ok(),
            true,
            "new cgroups are not noticed, open sockets not enrolled",
        ),
        feature(
            "LPM trie maps",
            map(MapType::LpmTrie),
            true,
            "no addresses in policy",
        ),
        feature(
            "array-of-maps maps",
            map(MapType::ArrayOfMaps),
            true,
            "no policy swap",
        ),
        feature(
            "socket storage maps",
            map(MapType::SkStorage),
            true,
            "sockets carry no tag",
        ),
        feature(
            "ring buffer maps",
            map(MapType::RingBuf),
            true,
            "no audit events",
        ),
        feature(
            "bpf_get_current_ancestor_cgroup_id",
            helper(
                ProgramType::CgroupSockAddr,
                BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
            ),
            true,
            "child cgroups have no identity",
        ),
        feature(
            "bpf_skb_ancestor_cgroup_id",
            helper(
                ProgramType::CgroupSkb,
                BpfHelper::BPF_FUNC_skb_ancestor_cgroup_id,
            ),
            true,
            "packets of untagged sockets have no identity",
        ),
        feature(
            "bpf_ktime_get_boot_ns",
            helper(
                ProgramType::CgroupSkb,
                BpfHelper::BPF_FUNC_ktime_get_boot_ns,
            ),
            true,
            "identities do not expire",
        ),
        feature(
            "bpf_set_retval",
            helper(ProgramType::CgroupSock, BpfHelper::BPF_FUNC_set_retval),
            false,
            "refused MPTCP sockets fail with EPERM: applications may not fall back to TCP",
        ),
    ]
}

/// Whether a release like `6.1.0-40-amd64` is at or above the floor.
fn is_above_floor(release: &str) -> bool {
    let mut numbers = release
        .split(|character: char| !character.is_ascii_digit())
        .map(|digits| digits.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= FLOOR
}

#[cfg(test)]
mod tests {
    use super::is_above_floor;

    #[test]
    fn releases_compare_by_number() {
        for (release, above) in [
            ("5.14.21-generic", false),
            ("5.15.0", true),
            ("6.1.0-40-amd64", true),
            ("10.0", true),
            ("4.19.0", false),
            ("nonsense", false),
        ] {
            assert_eq!(is_above_floor(release), above, "{release}");
        }
    }
}
