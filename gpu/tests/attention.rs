//! Attention that never writes its scores, against the formulas in f64.
#![cfg(feature = "emulation")]
#![allow(clippy::unwrap_used)]

use gpu::emulation::launch;
use gpu::{Argument, Element, Grid};
use half::{bf16, f16};

const SIZE: usize = 64;

#[derive(Clone, Copy)]
struct Shape {
    batch: usize,
    heads: usize,
    queries: usize,
    keys: usize,
}

impl Shape {
    fn of_queries(self) -> usize {
        self.batch * self.queries * self.heads * SIZE
    }

    fn of_keys(self) -> usize {
        self.batch * self.keys * self.heads * SIZE
    }

    /// Of [batch, heads, queries].
    fn rows(self) -> usize {
        self.batch * self.heads * self.queries
    }

    /// Where row i of a head begins in [batch, n, heads·64].
    fn at(self, item: usize, head: usize, n: usize, i: usize) -> usize {
        ((item * n + i) * self.heads + head) * SIZE
    }

    /// Blocks that have 64 of `n` rows each.
    fn grid(self, n: usize) -> Grid {
        let blocks = [n.div_ceil(64), self.heads, self.batch].map(|x| x as u32);
        Grid { blocks, threads: 128 }
    }
}

/// Numbers in a kernel's element type with NaN before and behind, which nobody may read or overwrite.
struct Fenced(Vec<u16>);

impl Fenced {
    const FENCE: usize = 4096;

    fn unset(n: usize) -> Self {
        Self(vec![u16::MAX; n + 2 * Self::FENCE])
    }

    fn new(element: Element, x: &[f64]) -> Self {
        let mut fenced = Self::unset(x.len());
        for (to, &x) in fenced.0[Self::FENCE..].iter_mut().zip(x) {
            *to = match element {
                Element::F16 => f16::from_f64(x).to_bits(),
                _ => bf16::from_f64(x).to_bits(),
            };
        }
        fenced
    }

    fn pointer(&mut self) -> Argument {
        Argument::Pointer(self.0[Self::FENCE..].as_mut_ptr() as u64)
    }

    fn values(&self, element: Element) -> Vec<f64> {
        let n = self.0.len() - Self::FENCE;
        let (fences, values) = ([&self.0[..Self::FENCE], &self.0[n..]], &self.0[Self::FENCE..n]);
        assert!(fences.iter().all(|fence| fence.iter().all(|&x| x == u16::MAX)), "written beyond the tensor");
        let widen = |&x: &u16| match element {
            Element::F16 => f16::from_bits(x).to_f64(),
            _ => bf16::from_bits(x).to_f64(),
        };
        values.iter().map(widen).collect()
    }
}

struct Inputs {
    q: Vec<f64>,
    k: Vec<f64>,
    v: Vec<f64>,
    gy: Vec<f64>,
}

impl Inputs {
    /// Normally distributed, of these standard deviations, and as `element` can say them.
    fn random(element: Element, shape: Shape, [q, k, v, gy]: [f64; 4]) -> Self {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut uniform = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as f64 / (1u64 << 53) as f64
        };
        let mut normal = |n: usize, deviation: f64| {
            let x: Vec<f64> =
                (0..n).map(|_| deviation * (0..12).map(|_| uniform()).sum::<f64>() - 6.0 * deviation).collect();
            Fenced::new(element, &x).values(element)
        };
        Self {
            q: normal(shape.of_queries(), q),
            k: normal(shape.of_keys(), k),
            v: normal(shape.of_keys(), v),
            gy: normal(shape.of_queries(), gy),
        }
    }
}

struct Outputs {
    y: Vec<f64>,
    lse: Vec<f64>,
    gq: Vec<f64>,
    gk: Vec<f64>,
    gv: Vec<f64>,
}

fn run(element: Element, shape: Shape, inputs: &Inputs) -> Outputs {
    let Shape { batch, heads, queries, keys } = shape;
    let [mut q, mut k, mut v, mut gy] = [&inputs.q, &inputs.k, &inputs.v, &inputs.gy].map(|x| Fenced::new(element, x));
    let [mut y, mut gq] = [(); 2].map(|()| Fenced::unset(shape.of_queries()));
    let [mut gk, mut gv] = [(); 2].map(|()| Fenced::unset(shape.of_keys()));
    let (mut lse, mut correlations) = (vec![f32::NAN; shape.rows()], vec![f32::NAN; shape.rows()]);
    let mut ranges = vec![f32::NAN; batch * heads];
    let sizes = [heads, queries, keys].map(|x| Argument::Int(x as i32));
    let floats = |x: &mut Vec<f32>| Argument::Pointer(x.as_mut_ptr() as u64);
    let go = |kernel: &str, grid, pointers: &[Argument]| {
        unsafe { launch(element, kernel, grid, &[pointers, &sizes].concat()) }.unwrap();
    };
    go(
        "attention_forward",
        shape.grid(queries),
        &[y.pointer(), floats(&mut lse), q.pointer(), k.pointer(), v.pointer()],
    );
    let per_head = Grid { blocks: [heads as u32, batch as u32, 1], threads: 256 };
    let kept = [floats(&mut lse), floats(&mut correlations), floats(&mut ranges)];
    go("attention_correlations", per_head, &[kept[1], kept[2], y.pointer(), gy.pointer(), v.pointer()]);
    let given = [&[q.pointer(), k.pointer(), v.pointer(), gy.pointer()][..], &kept].concat();
    go("attention_backward_q", shape.grid(queries), &[&[gq.pointer()][..], &given].concat());
    go("attention_backward_kv", shape.grid(keys), &[&[gk.pointer(), gv.pointer()][..], &given].concat());
    let lse = lse.into_iter().map(f64::from).collect();
    let [y, gq, gk, gv] = [y, gq, gk, gv].map(|x| x.values(element));
    Outputs { y, lse, gq, gk, gv }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn add(sum: &mut [f64], scale: f64, x: &[f64]) {
    sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += scale * x);
}

/// With P = softmax(q kᵀ/8) and dS = P ∘ (gy vᵀ − rowsum(gy ∘ y)): y = P v, gq = dS k/8, gk = dSᵀ q/8, gv = Pᵀ gy.
fn reference(shape: Shape, Inputs { q, k, v, gy }: &Inputs) -> Outputs {
    let [mut y, mut gq] = [(); 2].map(|()| vec![0.0; shape.of_queries()]);
    let [mut gk, mut gv] = [(); 2].map(|()| vec![0.0; shape.of_keys()]);
    let mut lse = Vec::new();
    for (item, head) in (0..shape.batch).flat_map(|item| (0..shape.heads).map(move |head| (item, head))) {
        let key = |j| shape.at(item, head, shape.keys, j)..shape.at(item, head, shape.keys, j) + SIZE;
        for i in 0..shape.queries {
            let row = shape.at(item, head, shape.queries, i)..shape.at(item, head, shape.queries, i) + SIZE;
            let logits: Vec<f64> = (0..shape.keys).map(|j| dot(&q[row.clone()], &k[key(j)]) / 8.0).collect();
            let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            lse.push(largest + logits.iter().map(|x| (x - largest).exp()).sum::<f64>().ln());
            let p: Vec<f64> = logits.iter().map(|x| (x - lse[lse.len() - 1]).exp()).collect();
            (0..shape.keys).for_each(|j| add(&mut y[row.clone()], p[j], &v[key(j)]));
            let correlation = dot(&gy[row.clone()], &y[row.clone()]);
            for j in 0..shape.keys {
                let ds = p[j] * (dot(&gy[row.clone()], &v[key(j)]) - correlation);
                add(&mut gq[row.clone()], ds / 8.0, &k[key(j)]);
                add(&mut gk[key(j)], ds / 8.0, &q[row.clone()]);
                add(&mut gv[key(j)], p[j], &gy[row.clone()]);
            }
        }
    }
    Outputs { y, lse, gq, gk, gv }
}

/// Half a unit in the last place of 1: the largest relative error of one rounding.
fn rounding(element: Element) -> f64 {
    match element {
        Element::F16 => 2f64.powi(-11),
        _ => 2f64.powi(-8),
    }
}

/// The root mean square of the difference over that of `b`.
fn difference(a: &[f64], b: &[f64]) -> f64 {
    let difference: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    (dot(&difference, &difference) / dot(b, b).max(f64::MIN_POSITIVE)).sqrt()
}

fn assert_close(name: &str, a: &[f64], b: &[f64], tolerance: f64) {
    let found = difference(a, b);
    assert!(found <= tolerance, "{name} is off by {found:.2e}, at most {tolerance:.2e} was expected");
}

fn assert_equal(element: Element, shape: Shape, found: &Outputs, expected: &Outputs, tolerance: f64) {
    // The output, rounded, is part of dS.
    let twice = 2.0 * tolerance;
    let Shape { batch, heads, queries, keys } = shape;
    let name = |what| format!("{what} of {element:?}, {batch}×{heads}×{queries}×{keys}");
    assert_close(&name("y"), &found.y, &expected.y, tolerance);
    assert_close(&name("lse"), &found.lse, &expected.lse, 1e-6);
    assert_close(&name("gv"), &found.gv, &expected.gv, tolerance);
    if keys > 1 {
        assert_close(&name("gq"), &found.gq, &expected.gq, twice);
        assert_close(&name("gk"), &found.gk, &expected.gk, twice);
    }
}

#[test]
fn output_and_gradients_are_those_of_the_formulas_but_for_rounding() {
    for (batch, heads, queries, keys) in [
        (1, 1, 64, 64),
        (2, 3, 70, 77),
        (1, 2, 197, 197),
        (1, 1, 1, 1),
        (1, 1, 3, 130),
        (2, 1, 130, 5),
        (1, 1, 256, 256),
        (1, 5, 64, 65),
    ] {
        let shape = Shape { batch, heads, queries, keys };
        for element in [Element::F16, Element::Bf16] {
            let inputs = Inputs::random(element, shape, [1.5, 1.5, 1.0, 1.0]);
            // A result is rounded once, its summands once each before, and these errors are independent.
            let (found, expected) = (run(element, shape, &inputs), reference(shape, &inputs));
            assert_equal(element, shape, &found, &expected, rounding(element));
        }
    }
}

/// dS is 10⁻⁷ here, of which a half keeps one bit.
#[test]
fn small_gradients_of_logits_are_kept() {
    let shape = Shape { batch: 1, heads: 1, queries: 64, keys: 500 };
    let inputs = Inputs::random(Element::F16, shape, [0.005, 200.0, 0.003, 0.002]);
    let (found, expected) = (run(Element::F16, shape, &inputs), reference(shape, &inputs));
    assert_close("gq", &found.gq, &expected.gq, 2e-3);
    let shape = Shape { queries: 500, keys: 64, ..shape };
    let inputs = Inputs::random(Element::F16, shape, [200.0, 0.005, 0.003, 0.002]);
    let (found, expected) = (run(Element::F16, shape, &inputs), reference(shape, &inputs));
    assert_close("gk", &found.gk, &expected.gk, 2e-3);
}

/// The first key has a probability of 5·10⁻⁶, of which a half keeps six bits.
#[test]
fn small_probabilities_are_kept_in_the_gradient_of_values() {
    let shape = Shape { batch: 1, heads: 1, queries: 300, keys: 64 };
    let mut inputs = Inputs::random(Element::F16, shape, [0.5, 0.05, 1.0, 20.0]);
    inputs.q.iter_mut().step_by(SIZE).for_each(|q| *q = 16.0);
    inputs.k[0] = -4.0;
    let (found, expected) = (run(Element::F16, shape, &inputs), reference(shape, &inputs));
    assert_close("gv", &found.gv[..SIZE], &expected.gv[..SIZE], 1e-3);
}

#[test]
fn large_gradients_and_values_do_not_overflow_on_the_way() {
    let shape = Shape { batch: 1, heads: 1, queries: 64, keys: 80 };
    let inputs = Inputs::random(Element::F16, shape, [0.3, 0.003, 2000.0, 100.0]);
    let (found, expected) = (run(Element::F16, shape, &inputs), reference(shape, &inputs));
    assert!(expected.gq.iter().any(|x| x.abs() > 100.0));
    assert_close("gq", &found.gq, &expected.gq, 2e-3);
}

/// Logits of ±60,000/8: of each row one key or a few alone count.
#[test]
fn large_logits_do_not_overflow() {
    let shape = Shape { batch: 1, heads: 1, queries: 70, keys: 140 };
    for element in [Element::F16, Element::Bf16] {
        let mut inputs = Inputs::random(element, shape, [0.5, 0.5, 1.0, 1.0]);
        for (i, q) in inputs.q.chunks_exact_mut(SIZE).enumerate() {
            q[0] = if i % 2 == 0 { 240.0 } else { -240.0 };
        }
        for (j, k) in inputs.k.chunks_exact_mut(SIZE).enumerate() {
            k[0] = [250.0, 0.0, -250.0, 0.0][j / 2 % 4];
        }
        let (mut found, expected) = (run(element, shape, &inputs), reference(shape, &inputs));
        // Here large keys cancel each other, and what is left is of the size of dS's rounding.
        for (found, expected) in found.gq.iter_mut().zip(&expected.gq).step_by(SIZE) {
            assert!(found.is_finite());
            *found = *expected;
        }
        // The logits themselves are off by units in the last place of 60,000 in f32.
        assert_equal(element, shape, &found, &expected, 2.0 * rounding(element) + 1e-3);
    }
}

/// exp of the negative log-sum-exp, which a key of zeros beyond the last would have, is infinite.
#[test]
fn keys_beyond_the_last_do_not_count_where_all_logits_are_far_below_theirs() {
    let shape = Shape { batch: 1, heads: 1, queries: 70, keys: 77 };
    let mut inputs = Inputs::random(Element::F16, shape, [1.0; 4]);
    inputs.q.iter_mut().step_by(SIZE).for_each(|q| *q = 40.0);
    inputs.k.iter_mut().step_by(SIZE).for_each(|k| *k = -30.0);
    let (mut found, expected) = (run(Element::F16, shape, &inputs), reference(shape, &inputs));
    // Here equal keys cancel each other, and what is left is of the size of dS's rounding.
    for (found, expected) in found.gq.iter_mut().zip(&expected.gq).step_by(SIZE) {
        assert!(found.is_finite());
        *found = *expected;
    }
    assert_equal(Element::F16, shape, &found, &expected, 1e-3);
}

#[test]
fn the_log_sum_exp_is_written_where_it_is_asked_for() {
    let shape = Shape { batch: 1, heads: 1, queries: 5, keys: 7 };
    let inputs = Inputs::random(Element::F16, shape, [1.0; 4]);
    let [mut q, mut k, mut v] = [&inputs.q, &inputs.k, &inputs.v].map(|x| Fenced::new(Element::F16, x));
    let mut y = Fenced::unset(shape.of_queries());
    let pointers = [y.pointer(), Argument::Pointer(0), q.pointer(), k.pointer(), v.pointer()];
    let arguments = [&pointers[..], &[1, 5, 7].map(Argument::Int)].concat();
    unsafe { launch(Element::F16, "attention_forward", shape.grid(5), &arguments) }.unwrap();
    assert_eq!(y.values(Element::F16), run(Element::F16, shape, &inputs).y);
}

/// What is not a number, or infinite, spoils all that depends on it, and nothing else.
#[test]
fn what_is_not_finite_is_passed_on() {
    let shape = Shape { batch: 1, heads: 2, queries: 70, keys: 70 };
    let head_0 = |i: usize| (i / SIZE).is_multiple_of(2);
    let row_3 = |i: usize| i / SIZE == 3 * 2;
    for element in [Element::F16, Element::Bf16] {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            let run_with = |change: &dyn Fn(&mut Inputs, usize)| {
                let mut inputs = Inputs::random(element, shape, [1.0; 4]);
                change(&mut inputs, shape.at(0, 0, 70, 3) + 5);
                run(element, shape, &inputs)
            };
            let spoilt = |x: &[f64], expected: &dyn Fn(usize) -> bool| {
                x.iter()
                    .enumerate()
                    .all(|(i, x)| x.is_finite() != expected(i) && (x.is_finite() || x.is_nan() || !bad.is_nan()))
            };
            let column_5 = |i: usize| head_0(i) && i % SIZE == 5;
            let found = run_with(&|inputs, at| inputs.q[at] = bad);
            assert!(spoilt(&found.y, &row_3) && spoilt(&found.lse, &|i| i == 3) && spoilt(&found.gq, &row_3));
            assert!(spoilt(&found.gk, &head_0) && spoilt(&found.gv, &head_0));
            let found = run_with(&|inputs, at| inputs.gy[at] = bad);
            assert!(spoilt(&found.y, &|_| false) && spoilt(&found.lse, &|_| false) && spoilt(&found.gq, &row_3));
            assert!(spoilt(&found.gk, &head_0) && spoilt(&found.gv, &column_5));
            let found = run_with(&|inputs, at| inputs.v[at] = bad);
            assert!(spoilt(&found.y, &column_5) && spoilt(&found.lse, &|_| false));
            assert!(spoilt(&found.gq, &head_0) && spoilt(&found.gk, &head_0) && spoilt(&found.gv, &|_| false));
            // An infinite key has all of some queries' probability and none of the others'.
            let found = run_with(&|inputs, at| inputs.k[at] = bad);
            let some = |i: usize| head_0(i) && (bad.is_nan() || !found.y[i].is_finite());
            assert!(spoilt(&found.y, &some) && (0..found.y.len()).any(some));
            assert!(spoilt(&found.gk, &head_0) && spoilt(&found.gv, &head_0));
            assert!(spoilt(&found.gq, &|i| some(i) || column_5(i)));
        }
    }
}
