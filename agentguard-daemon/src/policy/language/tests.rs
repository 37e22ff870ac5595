use globset::GlobBuilder;

use super::*;

fn glob(text: &str) -> Glob {
    GlobBuilder::new(text)
        .literal_separator(true)
        .build()
        .unwrap()
}

fn fit(left: &str, right: &str) -> Fit {
    Comparer::default().fit(&[&glob(left)], &[&glob(right)], Reach::Name)
}

#[test]
fn globs_are_compared_exactly() {
    for (left, right, expected) in [
        ("a.service", "a.service", Fit::Same),
        ("a.service", "b.service", Fit::Disjoint),
        ("a.service", "*.service", Fit::Narrower),
        ("*.service", "a.service", Fit::Wider),
        ("a*.service", "*b.scope", Fit::Disjoint),
        ("[a]", "a", Fit::Same),
        ("{a,b}", "{b,a}", Fit::Same),
        ("{a,b}", "[a-c]", Fit::Narrower),
        ("/a/*", "/a/**", Fit::Narrower),
        ("**/b", "b", Fit::Wider),
        ("/a/**/b", "/a/b", Fit::Wider),
        ("a*", "*b", Fit::Crossing(Some("ab".to_owned()))),
        ("x?z", "xy?", Fit::Crossing(Some("xyz".to_owned()))),
    ] {
        assert_eq!(fit(left, right), expected, "{left} {right}");
    }
}

#[test]
fn a_tree_holds_what_is_below_it() {
    let mut comparer = Comparer::default();
    let mut fit =
        |left: &str, right: &str| comparer.fit(&[&glob(left)], &[&glob(right)], Reach::Tree);
    assert_eq!(fit("/a/b", "/a"), Fit::Narrower);
    assert_eq!(fit("/a/*", "/a/**"), Fit::Same);
    assert_eq!(fit("/a", "/ab"), Fit::Disjoint);
    assert_eq!(fit("/a/b", "/a/c"), Fit::Disjoint);
}

#[test]
fn lists_are_unions() {
    let mut comparer = Comparer::default();
    let globs = ["a", "b", "c", "d*"].map(glob);
    let [a, b, c, d] = &globs;
    assert_eq!(comparer.fit(&[a, b], &[b, a], Reach::Name), Fit::Same);
    assert_eq!(comparer.fit(&[a], &[b, a], Reach::Name), Fit::Narrower);
    assert_eq!(comparer.fit(&[a, b], &[c, d], Reach::Name), Fit::Disjoint);
}

proptest::proptest! {
    /// Against globset itself, over every short name of a small alphabet.
    #[test]
    fn no_name_contradicts_a_comparison(left in "[a*?/]{1,5}", right in "[a*?/]{1,5}") {
        let matchers = [&left, &right].map(|text| glob(text).compile_matcher());
        let found = fit(&left, &right);
        let mut names = vec![String::new()];
        for _ in 0..4 {
            let longer: Vec<String> = names
                .iter()
                .flat_map(|name| ["a", "b", "/"].map(|end| format!("{name}{end}")))
                .collect();
            names.extend(longer);
        }
        for name in names {
            let [in_left, in_right] = [&matchers[0], &matchers[1]].map(|glob| glob.is_match(&name));
            let possible = match found {
                Fit::Disjoint => !(in_left && in_right),
                Fit::Same => in_left == in_right,
                Fit::Narrower => !in_left || in_right,
                Fit::Wider => in_left || !in_right,
                Fit::Crossing(_) => true,
            };
            proptest::prop_assert!(possible, "{name:?} {found:?}");
        }
        if let Fit::Crossing(Some(name)) = found {
            proptest::prop_assert!(matchers.iter().all(|glob| glob.is_match(&name)), "{name:?}");
        }
    }
}
