//! Which known word somebody may have meant.

/// The candidate that is nearest to `word`, if one is near enough to be a slip.
pub(super) fn nearest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let normal = normalize(word);
    let allowed = (normal.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| (distance(&normal, &normalize(candidate)), candidate))
        .filter(|&(distance, _)| distance <= allowed)
        .min_by_key(|&(distance, _)| distance)
        .map(|(_, candidate)| candidate)
}

/// Case and the kind of dash are the most common slips.
fn normalize(word: &str) -> String {
    word.to_lowercase().replace('_', "-")
}

/// Levenshtein's distance: insertions, deletions and substitutions from `a` to `b`.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (above, letter) in a.chars().enumerate() {
        let mut diagonal = above;
        let mut left = above + 1;
        for (cell, &other) in row.iter_mut().skip(1).zip(&b) {
            let best = (diagonal + usize::from(letter != other))
                .min(*cell + 1)
                .min(left + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = above + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("ports", "prots", 2),
            ("zones", "zone", 1),
            ("kitten", "sitting", 3),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn only_slips_are_suggested() {
        let keys = ["zones", "addresses", "ports", "deny"];
        assert_eq!(nearest("zone", keys), Some("zones"));
        assert_eq!(nearest("Adresses", keys), Some("addresses"));
        assert_eq!(nearest("protocol", keys), None);
        assert_eq!(nearest("x", keys), None);
        assert_eq!(nearest("raw_sockets", ["raw-sockets"]), Some("raw-sockets"));
    }
}
