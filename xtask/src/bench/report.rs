//! The table: medians, how they stand to bare, and whether the aims are met.

use super::{
    lane::Variant,
    measure::{Aim, Measure},
};

/// Nanoseconds of each round of one measure in one variant.
pub(super) struct Series {
    pub(super) measure: Measure,
    pub(super) variant: Variant,
    pub(super) rounds: Vec<f64>,
}

/// Flat means that 100,000 addresses cost no more than this many times one.
const FLAT: f64 = 1.3;

/// The most that limits may add to a new flow, in nanoseconds.
const LIMITS_NS: f64 = 40.0;

pub(super) fn print(series: &[Series], counts: &[u32]) {
    for measure in Measure::ALL {
        let aim = measure.aim();
        let goal = match aim {
            Aim::Added(added) => format!("aim: bare + {added} ns, flat within {FLAT}"),
            Aim::Ratio(ratio) => format!("aim: {ratio} x bare, flat within {FLAT}"),
        };
        println!("\n{} ({goal})", measure.describe());
        println!(
            "  {:<20} {:>10} {:>10} {:>8}  AIM",
            "VARIANT", "MEDIAN ns", "+ bare ns", "x bare"
        );
        let bare = median_of(series, measure, Variant::Bare);
        for one in series.iter().filter(|one| one.measure == measure) {
            let median = median(&one.rounds);
            let (added, ratio) = (median - bare, median / bare);
            let met = match (one.variant, aim) {
                (
                    Variant::Agentguard(_) | Variant::Limited | Variant::Flooded,
                    Aim::Added(most),
                ) => word(added <= most),
                (
                    Variant::Agentguard(_) | Variant::Limited | Variant::Flooded,
                    Aim::Ratio(most),
                ) => word(ratio <= most),
                (Variant::Bare | Variant::Noop | Variant::Nftables(_), _) => "",
            };
            println!(
                "  {:<20} {median:>10.0} {added:>10.0} {ratio:>8.2}  {met}",
                one.variant.name()
            );
        }
        if let (Some(&least), Some(&most)) = (counts.first(), counts.last()) {
            let of = |addresses| median_of(series, measure, Variant::Agentguard(addresses));
            let flat = of(most) / of(least);
            println!(
                "  {most} addresses to {least}: {flat:.2}  {}",
                word(flat <= FLAT)
            );
            let limits = median_of(series, measure, Variant::Limited) - of(least);
            let met = match measure {
                Measure::UdpConnect | Measure::TcpConnect => word(limits <= LIMITS_NS),
                Measure::UdpRepeat | Measure::UdpSend | Measure::UdpSendTo | Measure::TcpStream => {
                    ""
                }
            };
            println!("  limits: {limits:+.0} ns over none  {met}");
        }
    }
}

/// Whether an aim is met, in a word.
pub(super) const fn word(met: bool) -> &'static str {
    if met { "met" } else { "missed" }
}

fn median_of(series: &[Series], measure: Measure, variant: Variant) -> f64 {
    series
        .iter()
        .find(|one| one.measure == measure && one.variant == variant)
        .map_or(f64::NAN, |one| median(&one.rounds))
}

pub(super) fn median(rounds: &[f64]) -> f64 {
    let mut sorted = rounds.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.get(middle) {
        None => f64::NAN,
        Some(&upper) if sorted.len() % 2 == 1 => upper,
        Some(&upper) => f64::midpoint(sorted[middle - 1], upper),
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn a_median_is_not_moved_by_one_bad_round() {
        assert!((median(&[3.0, 1.0, 9_999.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 1.0, 2.0, 9_999.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).is_nan());
    }
}
