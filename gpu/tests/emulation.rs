//! The emulation runs what CUDA C promises, and says so where a kernel or a launch breaks its rules.
#![cfg(feature = "emulation")]
#![allow(clippy::unwrap_used)]

use gpu::emulation::{EmulationError, launch};
use gpu::{Argument, Element, Grid};
use half::{bf16, f16};

fn grid(blocks: u32, threads: u32) -> Grid {
    Grid { blocks: [blocks, 1, 1], threads }
}

fn input<T>(x: &[T]) -> Argument {
    Argument::Pointer(x.as_ptr() as u64)
}

fn output<T>(x: &mut [T]) -> Argument {
    Argument::Pointer(x.as_mut_ptr() as u64)
}

/// What happens when a probe is launched that takes one array.
fn probe(kernel: &str, grid: Grid) -> Result<(), EmulationError> {
    let mut x = vec![0f32; 4096];
    unsafe { launch(Element::F32, kernel, grid, &[output(&mut x)]) }
}

fn reason(kernel: &str) -> String {
    match probe(kernel, grid(3, 64)) {
        Err(EmulationError::Stuck { kernel: stuck, block: [0, 0, 0], reason }) if stuck == kernel => reason,
        other => panic!("{kernel}: {other:?}"),
    }
}

fn exchange(blocks: u32, threads: u32) {
    let n = (blocks * threads) as usize;
    let x: Vec<f32> = (0..n).map(|i| (i * i % 101) as f32).collect();
    let mut y = vec![0f32; 3 * n];
    unsafe { launch(Element::F32, "probe_exchange", grid(blocks, threads), &[output(&mut y), input(&x)]) }.unwrap();
    for (i, y) in y.chunks_exact(3).enumerate() {
        let around = |size: usize| x[i / size * size..][..size].iter().sum::<f32>();
        assert_eq!(y, [around(32), around(threads as usize), x[i / 32 * 32 + 31 - i % 32]], "thread {i}");
    }
}

#[test]
fn threads_of_warps_and_blocks_exchange_what_they_have() {
    exchange(5, 32);
    exchange(3, 256);
    exchange(2, 1024);
}

#[test]
fn launches_from_several_threads_do_not_disturb_each_other() {
    std::thread::scope(|scope| {
        for threads in [32, 96, 256, 512] {
            scope.spawn(move || (0..20).for_each(|_| exchange(4, threads)));
        }
    });
}

#[test]
fn arguments_arrive_as_they_were_given() {
    let mut y = vec![0f32; 32];
    let arguments = [output(&mut y), Argument::Int(-3), Argument::Long(-1 << 40), Argument::Float(0.5)];
    unsafe { launch(Element::F32, "probe_arguments", grid(1, 32), &arguments) }.unwrap();
    assert_eq!(y, vec![-3.0 + -(2f32.powi(40)) + 0.5; 32]);
}

#[test]
fn launches_that_do_not_fit_the_kernel_are_refused() {
    let run =
        |kernel, grid, arguments: &[Argument]| unsafe { launch(Element::F16, kernel, grid, arguments) }.unwrap_err();
    let (kernel, y) = ("probe_arguments".to_owned(), Argument::Pointer(0));
    assert_eq!(
        run("absent", grid(1, 32), &[]),
        EmulationError::NoSuchKernel { kernel: "absent".to_owned(), element: Element::F16 }
    );
    assert_eq!(
        run(&kernel, grid(1, 32), &[y]),
        EmulationError::WrongNumberOfArguments { kernel: kernel.clone(), expected: 4, given: 1 }
    );
    let mut arguments = [y, Argument::Int(1), Argument::Int(2), Argument::Float(0.0)];
    assert_eq!(
        run(&kernel, grid(1, 32), &arguments),
        EmulationError::WrongArgument {
            kernel: kernel.clone(),
            index: 2,
            expected: "Long".to_owned(),
            given: "Int(2)".to_owned()
        }
    );
    arguments[2] = Argument::Long(2);
    for threads in [0, 16, 33, 1056] {
        assert_eq!(
            run(&kernel, grid(1, threads), &arguments),
            EmulationError::WrongThreads { kernel: kernel.clone(), threads }
        );
    }
    for blocks in [[0, 1, 1], [1, 65_536, 1], [1, 1, 65_536]] {
        let grid = Grid { blocks, ..grid(1, 32) };
        assert_eq!(run(&kernel, grid, &arguments), EmulationError::WrongBlocks { kernel: kernel.clone(), blocks });
    }
}

#[test]
fn more_shared_memory_than_a_kernel_may_declare_is_refused() {
    assert_eq!(probe("probe_full", grid(1, 1024)), Ok(()));
    let error = probe("probe_too_full", grid(1, 1024)).unwrap_err();
    assert!(matches!(error, EmulationError::TooMuchShared { bytes: 49_156, .. }), "{error}");
}

#[test]
fn threads_that_wait_for_what_never_comes_are_told_apart() {
    let two_places = |reason: &str| {
        let (first, second) = reason.split_once(", thread ").unwrap();
        assert!(first.contains(" waits at probes.cuh:") && second.contains(" at probes.cuh:"), "{reason}");
    };
    for _ in 0..3 {
        let reason = reason("probe_some_end");
        assert!(reason.starts_with("59 threads wait at probes.cuh:") && reason.ends_with("5 have ended"), "{reason}");
        exchange(2, 64);
    }
    two_places(&reason("probe_some_shuffle"));
    two_places(&reason("probe_two_barriers"));
    assert!(reason("probe_some_lanes").starts_with("a shuffle among some lanes alone at probes.cuh:"));
    exchange(2, 1024);
}

#[test]
fn shared_memory_is_unset_in_every_block() {
    let mut y = vec![0f32; 64 * 3];
    let grid = Grid { blocks: [1, 2, 1], ..grid(1, 64) };
    unsafe { launch(Element::F32, "probe_unset", grid, &[output(&mut y)]) }.unwrap();
    for (i, y) in y.chunks_exact(3).enumerate() {
        assert!(y[0].is_nan(), "{y:?}");
        // Without a barrier a thread sees what was written by those that ran before: here the block that began from the last.
        assert_eq!((y[1].is_nan(), y[2].is_nan()), (i == 63, i > 0), "thread {i}");
    }
}

/// Every value of 16 bits, and floats at and around the middle between each and the next.
#[test]
fn halves_and_brain_floats_round_as_the_crate_half_does() {
    let bits: Vec<u16> = (0..=u16::MAX).collect();
    let check = |element, widened: &dyn Fn(u16) -> f32, rounded: &dyn Fn(f32) -> u16| {
        let mut wide = vec![0f32; bits.len()];
        unsafe { launch(element, "probe_widen", grid(256, 256), &[output(&mut wide), input(&bits)]) }.unwrap();
        for (&bits, wide) in bits.iter().zip(&wide) {
            let expected = widened(bits);
            assert!(wide.to_bits() == expected.to_bits() || wide.is_nan() && expected.is_nan(), "{bits:x}: {wide}");
        }
        for offset in [-1i32, 0, 1] {
            for between in [0, 1] {
                let x: Vec<f32> = wide
                    .iter()
                    .enumerate()
                    .map(|(i, &a)| {
                        let b = wide[(i + 1) % wide.len()];
                        let middle = if between == 1 && b.is_finite() { a / 2.0 + b / 2.0 } else { a };
                        f32::from_bits(middle.to_bits().wrapping_add_signed(offset))
                    })
                    .chain([65519.996, 65520.0, -65520.0, f32::MAX, f32::MIN_POSITIVE, 1e-45, f32::INFINITY])
                    .collect();
                let padded: Vec<f32> = x.iter().copied().chain(std::iter::repeat(0.0)).take(257 * 256).collect();
                let mut narrow = vec![0u16; padded.len()];
                unsafe { launch(element, "probe_narrow", grid(257, 256), &[output(&mut narrow), input(&padded)]) }
                    .unwrap();
                for (x, narrow) in padded.iter().zip(narrow) {
                    let expected = rounded(*x);
                    let both_nan = x.is_nan() && widened(narrow).is_nan();
                    assert!(narrow == expected || both_nan, "{x:e}: {narrow:x}, expected {expected:x}");
                }
            }
        }
    };
    check(Element::F16, &|x| f16::from_bits(x).to_f32(), &|x| f16::from_f32(x).to_bits());
    check(Element::Bf16, &|x| bf16::from_bits(x).to_f32(), &|x| bf16::from_f32(x).to_bits());
}

#[test]
fn many_blocks_fill_a_tensor_of_any_length() {
    for n in [1usize, 255, 1000] {
        let mut y = vec![f16::NAN; 1000];
        let arguments = [output(&mut y), Argument::Float(1.5), Argument::Long(n as i64)];
        unsafe { launch(Element::F16, "probe_fill", grid(3, 64), &arguments) }.unwrap();
        assert!(y[..n].iter().all(|&y| y == f16::from_f32(1.5)) && y[n..].iter().all(|y| y.is_nan()));
    }
}

#[test]
fn a_warp_multiplies_matrices_that_are_aligned() {
    #[repr(align(32))]
    struct Matrix<T>([T; 512]);
    let numbers = |step: usize| Matrix(std::array::from_fn(|i| f16::from_f32((i * step % 17) as f32 - 8.0)));
    let (a, b, mut y) = (numbers(5), numbers(7), Matrix([f32::NAN; 512]));
    let mut product = |offset| {
        let arguments = [output(&mut y.0), input(&a.0), input(&b.0), Argument::Int(offset)];
        unsafe { launch(Element::F16, "probe_product", grid(1, 32), &arguments) }?;
        Ok(y.0)
    };
    for offset in [0, 16] {
        let y: [f32; 512] = product(offset as i32).unwrap();
        for (i, y) in y[..256].iter().enumerate() {
            let (row, column) = (&a.0[offset + i / 16 * 16..][..16], &b.0[i % 16 * 16..][..16]);
            assert_eq!(*y, row.iter().zip(column).map(|(a, b)| a.to_f32() * b.to_f32()).sum::<f32>());
        }
    }
    let error: EmulationError = product(8).unwrap_err();
    assert!(error.to_string().contains("a matrix that is not aligned to 32 bytes at fragment.cuh:"), "{error}");
}
