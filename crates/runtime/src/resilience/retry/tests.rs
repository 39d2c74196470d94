use super::*;

#[test]
fn waits_are_drawn_from_nothing_to_a_bound_that_doubles_up_to_the_cap() {
    let settings = Settings { attempts: 9, base: Duration::from_millis(500), cap: Duration::from_secs(30) };
    let most: Vec<_> = (0..9).map(|n| settings.wait(n, 1.0).as_millis()).collect();
    assert_eq!(most, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    assert!((0..40).all(|n| settings.wait(n, 0.0).is_zero()));
    assert_eq!(settings.wait(u32::MAX, 1.0), settings.cap);
}

#[test]
fn a_budget_saves_ten_repeats_and_no_more() {
    let budget = Budget::new();
    for _ in 0..1_000 {
        budget.deposit();
    }
    let spent = std::iter::repeat_with(|| budget.withdraw()).take_while(|paid| *paid).count();
    assert_eq!(spent, usize::try_from(Budget::MOST).unwrap());
    for _ in 0..9 {
        budget.deposit();
        assert!(!budget.withdraw());
    }
    budget.deposit();
    assert!(budget.withdraw() && !budget.withdraw());
}
