use super::*;
use crate::policy::{
    HostFacts, Sources,
    compiled::Compiled,
    limit::{Bandwidth, QuotaPeriod, QuotaTime, RatePeriod},
    load,
    source::Source,
};

fn compiled(text: &str) -> Compiled {
    let sources = Sources::from_files(vec![Source::new("test.toml", text)]);
    load(&sources)
        .and_then(|policy| crate::policy::compile(&policy, &HostFacts::default()))
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn identity(name: &str, class: &str, roles: &[&str]) -> String {
    format!(
        "[identities.{name}]\nclass = \"{class}\"\nroles = {roles:?}\nmatch = [{{ cgroup = \"/{name}\" \
         }}]\n"
    )
}

/// The limits of an identity, by rule and scope.
fn of<'c>(compiled: &'c Compiled, name: &str) -> Vec<&'c CompiledLimits> {
    let index = compiled.index_of(name).unwrap();
    let own = compiled.limits.iter().filter(|it| it.identity == index);
    own.collect()
}

#[test]
fn everything_is_read() {
    let compiled = compiled(
        &("[defaults]\nquota-time = \"local\"\n\
         [roles.r.limits]\nconnections = { rate = \"20/s\", burst = 40 }\nconcurrent = 200\n\
         egress = \"10Mbit/s\"\ningress = \"1MiB/s\"\negress-quota = \"5GiB/day\"\n\
         ingress-quota = \"2GB/hour\"\non-limit = \"audit\"\non-quota = \"all-packets\"\n"
            .to_owned()
            + &identity("a", "agent", &["r"])),
    );
    let [limits] = of(&compiled, "a")[..] else {
        panic!("{:?}", compiled.limits);
    };
    let expected = LimitSet {
        connections: Some(Rate {
            count: 20,
            period: RatePeriod::Second,
            burst: 40,
        }),
        concurrent: Some(200),
        egress: Some(Bandwidth {
            bits_per_second: 10_000_000,
        }),
        ingress: Some(Bandwidth {
            bits_per_second: 8 << 20,
        }),
        egress_quota: Some(Quota {
            bytes: 5 << 30,
            period: QuotaPeriod::Day,
        }),
        ingress_quota: Some(Quota {
            bytes: 2_000_000_000,
            period: QuotaPeriod::Hour,
        }),
        is_audit: true,
        quota_drops_packets: true,
    };
    assert_eq!(limits.limits, expected);
    assert_eq!((limits.rule, limits.per), (None, Scope::Identity));
    assert_eq!(limits.locations[0].line, 3);
    assert_eq!(compiled.quota_time, QuotaTime::Local);
    let texts: Vec<String> = expected.texts().map(|(_, text)| text).collect();
    assert_eq!(
        texts,
        [
            "20/s burst 40",
            "200",
            "10Mbit/s",
            "8388608bit/s",
            "5GiB/day",
            "2GB/hour"
        ]
    );
}

#[test]
fn of_several_roles_the_strictest_holds() {
    let roles = "[roles.one.limits]\nconnections = { rate = \"100/min\", burst = 9 }\nconcurrent = 5\n\
         egress = \"10Mbit/s\"\non-limit = \"audit\"\negress-quota = \"1GB/day\"\n\
         [roles.two.limits]\nconnections = { rate = \"2/s\", burst = 3 }\nconcurrent = 7\n\
         egress = \"1Mbit/s\"\ningress = \"3Mbit/s\"\negress-quota = \"2GB/day\"\n\
         on-quota = \"all-packets\"\n";
    for names in [["one", "two"], ["two", "one"]] {
        let compiled = compiled(&(roles.to_owned() + &identity("a", "agent", &names)));
        let [limits] = of(&compiled, "a")[..] else {
            panic!("{:?}", compiled.limits);
        };
        let set = limits.limits;
        // A hundred a minute are fewer than two a second.
        let rate = set.connections.unwrap();
        assert_eq!(
            (rate.count, rate.period, rate.burst),
            (100, RatePeriod::Minute, 3)
        );
        assert_eq!(set.concurrent, Some(5));
        assert_eq!(set.egress.unwrap().bits_per_second, 1_000_000);
        assert_eq!(set.ingress.unwrap().bits_per_second, 3_000_000);
        assert_eq!(set.egress_quota.unwrap().bytes, 1_000_000_000);
        assert!(!set.is_audit && set.quota_drops_packets);
        assert_eq!(limits.locations.len(), 2);
    }
}

#[test]
fn a_default_of_the_class_holds_where_no_role_says_anything() {
    let compiled = compiled(
        &("[defaults.limits.agent]\nconnections = \"7/s\"\nconcurrent = 70\n\
         [defaults.limits.human]\nconcurrent = 9\n\
         [roles.r.limits]\nconcurrent = 500\nper = \"process\"\n[roles.none]\n"
            .to_owned()
            + &identity("a", "agent", &["r"])
            + &identity("b", "agent", &["none"])
            + &identity("c", "ci", &["none"])),
    );
    let told = |name: &str| -> Vec<(Scope, Option<u64>, Option<u64>)> {
        of(&compiled, name)
            .iter()
            .map(|it| {
                let set = &it.limits;
                (
                    it.per,
                    set.connections.map(|rate| rate.count),
                    set.concurrent,
                )
            })
            .collect()
    };
    assert_eq!(
        told("a"),
        [
            (Scope::Identity, Some(7), None),
            (Scope::Process, None, Some(500))
        ]
    );
    assert_eq!(told("b"), [(Scope::Identity, Some(7), Some(70))]);
    assert_eq!(told("c"), []);
    // Each built-in identity is of a class, too.
    assert_eq!(
        told("unknown-agent"),
        [(Scope::Identity, Some(7), Some(70))]
    );
    assert_eq!(told("human"), [(Scope::Identity, None, Some(9))]);
    assert_eq!(told("unknown"), []);
}

#[test]
fn rules_have_limits_of_their_own_for_each_identity() {
    let compiled = compiled(
        &("[[roles.r.egress]]\nzones = [\"private\"]\n\
         [[roles.r.egress]]\nzones = [\"any\"]\nlimits = { connections = \"5/s\", per = \"destination\" }\n\
         [[roles.r.ingress]]\nzones = [\"any\"]\nlimits = { concurrent = 3 }\n"
            .to_owned()
            + &identity("a", "agent", &["r"])
            + &identity("b", "agent", &["r"])),
    );
    for name in ["a", "b"] {
        let told: Vec<(&str, Scope)> = of(&compiled, name)
            .iter()
            .map(|it| {
                let rule = it.rule.unwrap() as usize - 1;
                (compiled.rule_sources[rule].name.as_str(), it.per)
            })
            .collect();
        assert_eq!(
            told,
            [
                ("r.egress[1]", Scope::Destination),
                ("r.ingress[0]", Scope::Identity)
            ]
        );
    }
}

#[test]
fn variants_are_limited_as_one() {
    let compiled = compiled(
        &("[[roles.r.egress]]\nzones = [\"any\"]\nrequires = { login = true }\n\
         [roles.r.limits]\nconcurrent = 3\n"
            .to_owned()
            + &identity("a", "agent", &["r"])),
    );
    assert!(compiled.identities.len() > 6, "it has a variant");
    assert_eq!(compiled.limits.len(), 1);
}
