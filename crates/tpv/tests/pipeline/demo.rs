//! The first command of a newcomer, on fewer problems than it takes by default.

use crate::workplace::Workplace;

#[test]
fn the_demo_ends_with_both_results_and_can_be_repeated() {
    let place = Workplace::new();
    let line = "demo --fit_problems 14 --try_problems 8 --output_dir demo";
    let first = place.ok(line);
    for part in ["is a toy", "$ tpv generate", "$ tpv prepare", "$ tpv train", "$ tpv intervene"] {
        assert!(first.stderr.contains(part), "{part}\n{}", first.stderr);
    }
    let results = first.stdout.split("The two results").nth(1).expect("the demo ends with its results");
    let row = |name: &str| -> Vec<f64> {
        let line = results.lines().find(|line| line.contains(name)).unwrap_or_else(|| panic!("{name}\n{results}"));
        let numbers = line.split(name).nth(1).unwrap().split_whitespace().take(2);
        numbers.map(|number| number.parse().unwrap_or_else(|error| panic!("{number}: {error}"))).collect()
    };
    assert!(row("mean thinking tokens")[1] < row("mean thinking tokens")[0], "{results}");
    let r2 = results.lines().find(|line| line.contains("R2 of the progress")).unwrap();
    assert_eq!(
        (r2.matches(" [").count(), r2.matches("0.").count() >= 4),
        (2, true),
        "two figures with intervals: {r2}"
    );
    assert_eq!(row("right of 24").len(), 2, "{results}");
    assert!(results.contains("alpha 0: ") && results.contains("alpha 15: ") && results.contains(" │ "), "{results}");
    let width = first.stdout.lines().filter(|line| line.starts_with([' ', '─'])).map(|line| line.chars().count()).max();
    assert!(width <= Some(100), "{width:?}\n{}", first.stdout);
    let second = place.ok(line);
    assert!(second.stderr.contains("14 of 14 problems are in") && second.stderr.contains("48 of 48 responses"));
    assert_eq!(second.stdout.split("The two results").nth(1), Some(results));
}
