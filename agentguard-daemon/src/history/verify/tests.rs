use serde_json::json;

use super::*;
use crate::audit::{Signer, chain::to_hex};

/// Ten records; the fifth and the tenth are checkpoints, and the eighth says that the first three go. And
/// the key that signs next.
fn lines() -> (Vec<String>, PublicKey, PublicKey) {
    let signers: Vec<Signer> = (1..=3).map(|seed| Signer::new(&[seed; 32])).collect();
    let mut signers = signers.iter();
    let mut signer = signers.next().unwrap();
    let first = signer.public_key();
    let mut position = Position::FIRST;
    let mut lines = Vec::new();
    for number in 1..=10 {
        let mut own = json!({ "previous": to_hex(&position.previous) });
        if number % 5 == 0 {
            let next = signers.next().unwrap();
            let checkpoint = signer.sign(position, number, next.public_key());
            own["checkpoint"] = json!({
                "key": to_hex(&checkpoint.key),
                "next_key": to_hex(&checkpoint.next_key),
                "signature": to_hex(&checkpoint.signature),
            });
            signer = next;
        }
        if number == 8 {
            own["removed"] = json!({ "first": 1, "last": 3 });
        }
        let line = json!({
            "time": number,
            "metadata": { "sequence": position.sequence },
            "unmapped": { "agentguard": own },
        })
        .to_string();
        position = position.after(&line);
        lines.push(line);
    }
    (lines, first, signer.public_key())
}

fn check(lines: &[String]) -> Vec<String> {
    let (_, first, current) = self::lines();
    let mut verifier = Verifier::new(Some(first));
    for line in lines {
        verifier.feed(line);
    }
    let report = verifier.finish(Some(current));
    report.findings.iter().map(ToString::to_string).collect()
}

#[test]
fn what_nobody_touched_is_whole() {
    let (lines, first, current) = lines();
    let mut verifier = Verifier::new(Some(first));
    for line in &lines {
        verifier.feed(line);
    }
    let wanted = Report {
        records: 10,
        first: Some(1),
        last: Some(10),
        checkpoints: 2,
        unsigned: 0,
        from_known_key: true,
        findings: Vec::new(),
    };
    assert_eq!(verifier.finish(Some(current)), wanted);
}

#[test]
fn each_kind_of_tampering_is_found_at_its_place() {
    type Change = fn(&mut Vec<String>);
    let changes: [(Change, &[&str]); 9] = [
        (
            |lines| lines[2] = lines[2].replace("\"time\":3", "\"time\":4"),
            &["record 3 was altered: the next one was written after another one"],
        ),
        (|lines| drop(lines.remove(2)), &["record 3 is missing"]),
        (
            |lines| drop(lines.drain(5..8)),
            &["records 6 to 8 are missing"],
        ),
        (
            |lines| lines.insert(3, lines[2].clone()),
            &["record 3 is there twice"],
        ),
        (
            |lines| lines.push(lines[6].clone()),
            &["record 7 stands after record 10"],
        ),
        (
            |lines| lines.swap(5, 6),
            &["record 6 is missing", "record 6 stands after record 7"],
        ),
        (
            |lines| lines.truncate(7),
            &["what came after record 7 was cut off: its checkpoints used up keys"],
        ),
        (
            |lines| lines[8] = "{}".to_owned(),
            &["line 9 is no record", "record 9 is missing"],
        ),
        (
            |lines| {
                // The whole tail written anew by somebody who has no key.
                let forger = Signer::new(&[9; 32]);
                let mut position = parse(&lines[7]).unwrap().0.after(&lines[7]);
                for (index, line) in lines.iter_mut().enumerate().skip(8) {
                    let mut value: Value = serde_json::from_str(line).unwrap();
                    value["forged"] = true.into();
                    let own = &mut value["unmapped"]["agentguard"];
                    own["previous"] = to_hex(&position.previous).into();
                    if index == 9 {
                        let checkpoint = forger.sign(position, 10, forger.public_key());
                        own["checkpoint"]["key"] = to_hex(&checkpoint.key).into();
                        own["checkpoint"]["next_key"] = to_hex(&checkpoint.next_key).into();
                        own["checkpoint"]["signature"] = to_hex(&checkpoint.signature).into();
                    }
                    *line = value.to_string();
                    position = position.after(line);
                }
            },
            &[
                "checkpoint 10 is signed by another key than the one that was announced",
                "what came after record 10 was cut off: its checkpoints used up keys",
            ],
        ),
    ];
    for (change, wanted) in changes {
        let mut all = lines().0;
        change(&mut all);
        assert_eq!(check(&all), wanted);
    }
}

#[test]
fn a_signature_does_not_move() {
    let mut all = lines().0;
    all[4] = all[4].replace("\"time\":5", "\"time\":6");
    let found = check(&all);
    assert!(
        found.contains(&"the signature of checkpoint 5 is wrong".to_owned()),
        "{found:?}"
    );
}

#[test]
fn the_oldest_go_only_where_a_record_says_so() {
    let (all, first, current) = lines();
    let check = |lines: &[String], is_all| {
        let mut verifier = Verifier::new(Some(first));
        verifier.is_all = is_all;
        for line in lines {
            verifier.feed(line);
        }
        let report = verifier.finish(Some(current));
        let findings = report.findings.iter().map(ToString::to_string);
        findings.collect::<Vec<_>>()
    };
    let none: [&str; 0] = [];
    for gone in 0..=3 {
        assert_eq!(check(&all[gone..], true), none, "{gone}");
    }
    let says = "and no record says that retention let";
    assert_eq!(
        check(&all[4..], true),
        [format!("record 4 is gone, {says} it go")]
    );
    assert_eq!(
        check(&all[6..], true),
        [format!("records 4 to 6 are gone, {says} them go")]
    );
    assert_eq!(
        check(&all[8..], true),
        [format!("records 1 to 8 are gone, {says} them go")]
    );
    // What a sink has may begin anywhere.
    assert_eq!(check(&all[6..], false), none);
    assert_eq!(
        check(&[], true),
        ["what came after record 0 was cut off: its checkpoints used up keys"]
    );
}
