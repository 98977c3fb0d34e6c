//! The sampler against a plain one that sorts the whole vocabulary in f64.

use proptest::prelude::*;
use tpv_core::sampling::{Sampler, SamplingError, SamplingParams, normalised_entropy, sample_seed};

const PLAIN: SamplingParams = SamplingParams { temperature: 1.0, top_p: 1.0, top_k: 0 };

/// Probabilities in rank order, cut to top-k and then to the nucleus, by sorting everything in f64.
fn sorted_distribution(logits: &[f32], params: SamplingParams, top_p: f64) -> Vec<(u32, f64)> {
    let mut ranked: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| f64::from(logit))).collect();
    ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if params.top_k > 0 {
        ranked.truncate(params.top_k);
    }
    let max = ranked[0].1;
    ranked.iter_mut().for_each(|(_, score)| *score = ((*score - max) / f64::from(params.temperature)).exp());
    normalise(&mut ranked);
    let mut cumulative = 0.0;
    let crossing = ranked.iter().position(|(_, p)| {
        cumulative += p;
        cumulative >= top_p
    });
    ranked.truncate(crossing.map_or(ranked.len(), |at| at + 1));
    normalise(&mut ranked);
    ranked
}

fn normalise(weights: &mut [(u32, f64)]) {
    let total: f64 = weights.iter().map(|(_, w)| w).sum();
    weights.iter_mut().for_each(|(_, w)| *w /= total);
}

/// The uniform number behind a seed's first draw, found by drawing from 2^16 equal tokens: the middle of a cell 1.5e-5 wide.
fn uniform_of(seed: u64) -> f64 {
    let count = 1 << 16;
    let mut sampler = Sampler::new(PLAIN, seed).expect("plain parameters are sensible");
    let token = sampler.sample(&vec![0.0; count], None, &[]).expect("the logits are finite");
    (f64::from(token) + 0.5) / count as f64
}

fn params() -> impl Strategy<Value = SamplingParams> {
    let top_p = prop_oneof![Just(1.0f32), 0.05f32..1.0];
    let top_k = prop_oneof![Just(0usize), 1usize..60];
    (0.05f32..3.0, top_p, top_k).prop_map(|(temperature, top_p, top_k)| SamplingParams { temperature, top_p, top_k })
}

/// Coarse steps make ties; the spread goes from flat to so steep that one token has everything.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    (1usize..300, 0.0f32..3.0).prop_flat_map(|(count, spread)| {
        proptest::collection::vec((-40i32..40).prop_map(move |step| step as f32 * 0.25 * spread), count)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Each token is the one at which the plain sampler's cumulative distribution passes the same uniform number.
    #[test]
    fn draw_inverts_the_cumulative_distribution(logits in logits(), params in params(), seed: u64) {
        let bound = f64::from(params.top_p);
        let kept = sorted_distribution(&logits, params, bound);
        // Where f32 rounding could move the nucleus by a token, either is right.
        let (fewer, more) = (bound - 1e-5, bound + 1e-5);
        prop_assume!(sorted_distribution(&logits, params, fewer).len() == kept.len());
        prop_assume!(bound == 1.0 || sorted_distribution(&logits, params, more).len() == kept.len());
        let uniform = uniform_of(seed);
        let token = Sampler::new(params, seed).unwrap().sample(&logits, None, &[]).unwrap();
        let rank = kept.iter().position(|&(id, _)| id == token).expect("a token that is kept");
        let before: f64 = kept[..rank].iter().map(|(_, p)| p).sum();
        prop_assert!(before <= uniform + 2e-5 && uniform <= before + kept[rank].1 + 2e-5);
    }

    /// The shift is added block by block; the choice is that from the sums written down beforehand.
    #[test]
    fn a_push_is_the_same_as_pushed_logits(
        seed: u64, params in params(), alpha in -3f32..3.0, count in 900usize..3500, spread in 0.1f32..4.0,
    ) {
        let value = |i: usize| (((i as u64).wrapping_mul(seed | 1) >> 20) % 64) as f32 * 0.125 - 4.0;
        let logits: Vec<f32> = (0..count).map(|i| value(i) * spread).collect();
        let shift: Vec<f32> = (0..count).map(|i| value(i + 77)).collect();
        let sums: Vec<f32> = logits.iter().zip(&shift).map(|(logit, s)| logit + alpha * s).collect();
        for params in [params, SamplingParams::GREEDY] {
            let mut pushed = Sampler::new(params, seed).unwrap();
            let mut plain = pushed.clone();
            for _ in 0..3 {
                let expected = plain.sample(&sums, None, &[]);
                prop_assert_eq!(pushed.sample(&logits, Some((alpha, &shift)), &[]), expected);
            }
        }
        let (greedy, mut broken) = (Sampler::new(SamplingParams::GREEDY, 0).unwrap(), logits);
        let first_best = sums.iter().enumerate().fold(0, |best, (i, sum)| if *sum > sums[best] { i } else { best });
        prop_assert_eq!(greedy.clone().sample(&sums, None, &[]), Ok(first_best as u32));
        let token = seed as usize % count;
        broken[token] = f32::NAN;
        let error = Err(SamplingError::NotANumber { token: token as u32 });
        prop_assert_eq!(greedy.clone().sample(&broken, Some((alpha, &shift)), &[]), error);
    }

    #[test]
    fn no_push_is_the_same_bit_for_bit(logits in logits(), params in params(), seed: u64, shift in -9f32..9.0) {
        let shift = vec![shift; logits.len()];
        let mut plain = Sampler::new(params, seed).unwrap();
        let mut pushed = plain.clone();
        for _ in 0..5 {
            prop_assert_eq!(plain.sample(&logits, None, &[]), pushed.sample(&logits, Some((0.0, &shift)), &[]));
        }
    }

    #[test]
    fn push_equals_a_shifted_copy(logits in logits(), params in params(), seed: u64, alpha in -50f32..50.0) {
        let shift: Vec<f32> = (0..logits.len()).map(|i| ((i * 37 % 11) as f32 - 5.0) * 0.1).collect();
        let copy: Vec<f32> = logits.iter().zip(&shift).map(|(l, s)| l + alpha * s).collect();
        let mut a = Sampler::new(params, seed).unwrap();
        let mut b = a.clone();
        prop_assert_eq!(a.sample(&logits, Some((alpha, &shift)), &[]), b.sample(&copy, None, &[]));
    }

    #[test]
    fn greedy_takes_the_first_of_the_greatest(logits in logits()) {
        let best = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let first = logits.iter().position(|&l| l == best).unwrap();
        let mut sampler = Sampler::new(SamplingParams::GREEDY, 1).unwrap();
        prop_assert_eq!(sampler.sample(&logits, None, &[]).unwrap(), first as u32);
    }

    /// Whatever was drawn from before, the second draw of a seed is the same.
    #[test]
    fn every_draw_uses_one_random_number(first in logits(), other in logits(), params in params(), seed: u64) {
        let second_draw = |logits: &[f32]| {
            let mut sampler = Sampler::new(params, seed).unwrap();
            sampler.sample(logits, None, &[]).unwrap();
            sampler.sample(&[0.0; 64], None, &[]).unwrap()
        };
        prop_assert_eq!(second_draw(&first), second_draw(&other));
    }
}

#[test]
fn frequencies_follow_the_distribution() {
    let logits: Vec<f32> = (0..40).map(|i| ((i * 7919 % 40) as f32) * 0.11).collect();
    for (temperature, top_p, top_k) in [(1.0, 1.0, 0), (0.6, 0.95, 0), (1.3, 0.9, 12), (0.7, 1.0, 5)] {
        let params = SamplingParams { temperature, top_p, top_k };
        let expected = sorted_distribution(&logits, params, f64::from(top_p));
        let draws = 40_000;
        let mut counts = vec![0u32; logits.len()];
        let mut sampler = Sampler::new(params, sample_seed(7, 0, 0)).unwrap();
        for _ in 0..draws {
            counts[sampler.sample(&logits, None, &[]).unwrap() as usize] += 1;
        }
        let squares = expected.iter().map(|&(token, p)| {
            let mean = p * f64::from(draws);
            (f64::from(counts[token as usize]) - mean).powi(2) / mean
        });
        // Mean k - 1, variance 2 (k - 1); four standard deviations above the mean.
        let (statistic, freedom) = (squares.sum::<f64>(), expected.len() as f64 - 1.0);
        assert!(statistic < freedom + 4.0 * (2.0 * freedom).sqrt(), "chi-square {statistic} of {freedom}");
        let kept: u32 = expected.iter().map(|&(token, _)| counts[token as usize]).sum();
        assert_eq!(kept, draws, "only kept tokens are drawn");
    }
}

#[test]
fn a_vocabulary_of_real_size_is_sampled_in_proportion() {
    // A flat tail of 150,000 tokens holds half of the probability: the selection has to go deep.
    let tail = 150_000;
    let mut logits = vec![-(tail as f32).ln(); tail + 1];
    logits[77] = 0.0;
    let mut sampler = Sampler::new(PLAIN, 5).unwrap();
    let drawn: Vec<u32> = (0..400).map(|_| sampler.sample(&logits, None, &[]).unwrap()).collect();
    let best = drawn.iter().filter(|&&token| token == 77).count();
    assert!((160..240).contains(&best), "{best} of 400");
    let nucleus = SamplingParams { top_p: 0.4, ..PLAIN };
    let mut sampler = Sampler::new(nucleus, 5).unwrap();
    assert!((0..50).all(|_| sampler.sample(&logits, None, &[]) == Ok(77)));
}

#[test]
fn the_nucleus_includes_the_token_that_crosses() {
    let logits = [0.5f32.ln(), 0.3f32.ln(), 0.2f32.ln()];
    let seen = |top_p: f32| {
        let mut sampler = Sampler::new(SamplingParams { temperature: 1.0, top_p, top_k: 0 }, 3).unwrap();
        let mut seen = [false; 3];
        (0..500).for_each(|_| seen[sampler.sample(&logits, None, &[]).unwrap() as usize] = true);
        seen
    };
    assert_eq!(seen(0.45), [true, false, false]);
    assert_eq!(seen(0.55), [true, true, false]);
    assert_eq!(seen(0.85), [true, true, true]);
}

#[test]
fn extremes_stay_numbers() {
    let any = SamplingParams { temperature: 1.0, top_p: 0.95, top_k: 0 };
    let mut sampler = Sampler::new(any, 0).unwrap();
    for alpha in [f32::MAX, f32::MIN, 1e30, f32::MIN_POSITIVE] {
        let ruled_out = [0.0, 1.0, f32::NEG_INFINITY];
        let token = sampler.sample(&ruled_out, Some((alpha, &[1.0, -1.0, 10.0])), &[]).unwrap();
        assert_ne!(token, 2, "a token that is ruled out stays out");
        sampler.sample(&[f32::MAX, f32::MIN, 0.0], Some((alpha, &[1.0, -1.0, 0.5])), &[]).unwrap();
    }
    assert_eq!(sampler.sample(&[1.0, f32::INFINITY, 3.0], None, &[]), Ok(1));
    assert_eq!(sampler.sample(&[1.0, 2.0, 3.0], None, &[(0, f32::INFINITY)]), Ok(0));
    let without_best = sampler.sample(&[1.0, 2.0, 90.0], None, &[(2, f32::NEG_INFINITY)]);
    assert_ne!(without_best, Ok(2));
    let cold = SamplingParams { temperature: f32::MIN_POSITIVE, ..PLAIN };
    assert_eq!(Sampler::new(cold, 0).unwrap().sample(&[1.0, 1.1, 0.0], None, &[]), Ok(1));
    let both = [f32::INFINITY, 0.0, f32::INFINITY];
    let drawn: Vec<u32> = (0..64).map(|_| sampler.sample(&both, None, &[]).unwrap()).collect();
    assert!(drawn.contains(&0) && drawn.contains(&2) && !drawn.contains(&1));
}

#[test]
fn bad_input_is_refused_by_name() {
    let mut sampler = Sampler::new(SamplingParams::GREEDY, 0).unwrap();
    assert_eq!(sampler.sample(&[0.0, f32::NAN], None, &[]), Err(SamplingError::NotANumber { token: 1 }));
    assert_eq!(sampler.sample(&[0.0], Some((1.0, &[f32::NAN])), &[]), Err(SamplingError::NotANumber { token: 0 }));
    let long = [[0.0; 20].as_slice(), &[f32::NAN], &[0.0; 20]].concat();
    assert_eq!(sampler.sample(&long, None, &[]), Err(SamplingError::NotANumber { token: 20 }));
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY; 3], None, &[]), Err(SamplingError::NoCandidate { vocab_size: 3 }));
    assert_eq!(sampler.sample(&[], None, &[]), Err(SamplingError::NoCandidate { vocab_size: 0 }));
    let short = SamplingError::ShiftLength { expected: 2, got: 1 };
    assert_eq!(sampler.sample(&[0.0, 1.0], Some((1.0, &[0.0])), &[]), Err(short));
    let outside = SamplingError::BiasToken { token: 2, vocab_size: 2 };
    assert_eq!(sampler.sample(&[0.0, 1.0], None, &[(2, 1.0)]), Err(outside));
    assert_eq!(sampler.sample(&[0.0], Some((f32::INFINITY, &[1.0])), &[]), Err(SamplingError::Alpha(f32::INFINITY)));
    for (temperature, top_p) in [(-1.0, 1.0), (f32::NAN, 1.0), (1.0, 0.0), (1.0, 1.5), (1.0, f32::NAN)] {
        assert!(Sampler::new(SamplingParams { temperature, top_p, top_k: 0 }, 0).is_err());
    }
}

/// The constants come from a SplitMix64 and a PCG written in Python: `golden/seeds.py`.
#[test]
fn seeds_are_fixed_for_good() {
    assert_eq!(sample_seed(42, 0, 0), 7138415436909018950);
    let mut sampler = Sampler::new(PLAIN, sample_seed(42, 3, 1)).unwrap();
    let drawn: Vec<u32> = (0..8).map(|_| sampler.sample(&[0.0; 1000], None, &[]).unwrap()).collect();
    assert_eq!(drawn, [439, 510, 535, 57, 462, 671, 890, 451]);
}

#[test]
fn entropy_matches_its_definition() {
    for spread in [0.0f32, 0.5, 3.0, 20.0] {
        let logits: Vec<f32> = (0..1001).map(|i| ((i * 7919 % 1001) as f32 / 1001.0 - 0.5) * spread).collect();
        let exact = entropy_in_f64(&logits) / (logits.len() as f64).ln();
        assert!((f64::from(normalised_entropy(&logits)) - exact).abs() < 1e-6, "spread {spread}");
    }
    assert!(normalised_entropy(&[f32::NAN, 0.0]).is_nan());
    assert!(normalised_entropy(&[f32::NEG_INFINITY; 2]).is_nan());
    assert_eq!(normalised_entropy(&[1.0]), 0.0);
    assert_eq!(normalised_entropy(&[f32::INFINITY, 0.0, 1.0]), 0.0);
    assert!(normalised_entropy(&[f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY]) < 1e-30);
}

fn entropy_in_f64(logits: &[f32]) -> f64 {
    let weights: Vec<f64> = logits.iter().map(|&l| f64::from(l).exp()).collect();
    let total: f64 = weights.iter().sum();
    weights.iter().map(|w| w / total).map(|p| -p * p.ln()).sum()
}
