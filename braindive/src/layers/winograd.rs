//! 3×3 convolution of stride 1 and padding 1 by Winograd's minimal filtering F(2×2, 3×3): 16 products where the direct method
//! takes 36 (Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016, section 4.1).
//!
//! The image is cut into tiles of 2×2 output pixels. With d the 4×4 input pixels around a tile and g a 3×3 filter,
//! Y = Aᵀ [Σ over channels of (G g Gᵀ) ⊙ (Bᵀ d B)] A; for each of the 16 positions the sum over channels of all tiles and all
//! outputs is a matrix product.

use super::gemm::{Matrix, MatrixMut, multiply};
use super::kernel::{Element, for_each_chunk};
use super::simd::vectorised;
use rayon::prelude::*;
use std::array::from_fn;
use std::ops::Range;

/// Positions of a 4×4 tile.
const POSITIONS: usize = 16;
/// Tiles of a task where the image has many: enough for a fast product, few enough for a core's caches.
const TASK_TILES: usize = 128;
/// Outputs of a task where the image has few tiles. It divides the UNet's 320, 640 and 1280 channels evenly.
const TASK_OUTPUTS: usize = 160;
/// From so many tiles on, an image is divided by tiles, and its tasks share the transformed filters; below, it is divided by
/// outputs, and its tasks share the transformed pixels.
const MANY_TILES: usize = 512;

/// The filters of a convolution.
#[derive(Debug, Clone, Copy)]
pub(super) struct Filters<'a, T> {
    /// [outputs, inputs, 3, 3]; [inputs, outputs, 3, 3] if `adjoint`.
    pub weight: &'a [T],
    pub inputs: usize,
    pub outputs: usize,
    /// The convolution that takes an output gradient to an input gradient: every filter turned by 180°.
    pub adjoint: bool,
}

/// G: from the three taps of a filter's row or column to its values at the four points.
const G: [[f64; 3]; 4] = [[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0.0, 0.0, 1.0]];

impl<T: Element> Filters<'_, T> {
    /// G g Gᵀ of the filters of `outputs`, ordered as the weight is: [outputs or inputs][position][inputs or outputs]. It is
    /// linear in the nine taps: a product with a matrix [position, tap] of powers of two.
    fn transform(&self, outputs: Range<usize>) -> Vec<T> {
        let transform: Vec<T> = (0..POSITIONS * 9)
            .map(|i| (i / 9, if self.adjoint { 8 - i % 9 } else { i % 9 }))
            .map(|(position, tap)| T::from_f64(G[position / 4][tap / 3] * G[position % 4][tap % 3]))
            .collect();
        let transform = Matrix::new(&transform, POSITIONS, 9, 9);
        let (first, outer, inner, next) = match self.adjoint {
            false => (outputs.start * self.inputs, outputs.len(), self.inputs, self.inputs),
            true => (outputs.start, self.inputs, outputs.len(), self.outputs),
        };
        let mut transformed = vec![T::zero(); outer * padded(inner)];
        let work = 2 * 9 * transformed.len();
        for_each_chunk(&mut transformed, padded(inner), work, |i, transformed| {
            let filters = Matrix::new(&self.weight[(first + i * next) * 9..], inner, 9, 9);
            multiply(transformed, inner, false, transform, filters.transposed());
        });
        transformed
    }

    /// The values at `position` of what [`Self::transform`] gave for that many `outputs`: [outputs, inputs].
    fn at_position<'t>(&self, transformed: &'t [T], position: usize, outputs: usize) -> Matrix<'t, T> {
        let matrix = |outer, inner| Matrix::new(&transformed[position * inner..], outer, inner, padded(inner));
        if self.adjoint { matrix(self.inputs, outputs).transposed() } else { matrix(outputs, self.inputs) }
    }
}

/// From one item to the next of an array [item][position][n]: a little more than its elements, so that the items at one position
/// do not compete for the same lines of a cache.
fn padded(n: usize) -> usize {
    POSITIONS * (n + 1)
}

/// How an image is cut into tiles.
#[derive(Debug, Clone, Copy)]
struct Tiling {
    height: usize,
    width: usize,
}

impl Tiling {
    fn rows(&self) -> usize {
        self.height.div_ceil(2)
    }

    fn columns(&self) -> usize {
        self.width.div_ceil(2)
    }

    fn tiles(&self) -> usize {
        self.rows() * self.columns()
    }
}

vectorised! {
    /// Bᵀ d B of one channel's tiles in `rows` of tiles: [position][tile].
    fn transform_image<T: Element>(tiling: Tiling, plane: &[T], rows: Range<usize>, transformed: &mut [T]) {
        let (columns, tiles) = (tiling.columns(), rows.len() * tiling.columns());
        let mut d: [_; 4] = from_fn(|_| PixelRow::new(columns));
        for (i, row) in rows.enumerate() {
            for (offset, d) in d.iter_mut().enumerate() {
                match (2 * row + offset).checked_sub(1).filter(|&y| y < tiling.height) {
                    Some(y) => d.read(&plane[y * tiling.width..][..tiling.width]),
                    None => d.clear(),
                }
            }
            let [d0, d1, d2, d3] = &d;
            let place = i * columns..(i + 1) * columns;
            let [v0, v1, v2, v3] = quarters(&mut transformed[..POSITIONS * tiles]);
            image_points(d0, d2, |a, b| a - b, quarters(v0).map(|v| &mut v[place.clone()]));
            image_points(d1, d2, |a, b| a + b, quarters(v1).map(|v| &mut v[place.clone()]));
            image_points(d2, d1, |a, b| a - b, quarters(v2).map(|v| &mut v[place.clone()]));
            image_points(d1, d3, |a, b| a - b, quarters(v3).map(|v| &mut v[place.clone()]));
        }
    }

    /// Aᵀ m A + bias, the output pixels of one channel's tiles in whole rows of tiles, from m: [position][tile].
    fn output_pixels<T: Element>(tiling: Tiling, m: &[T], tiles: usize, bias: T, pixels: &mut [T]) {
        let columns = tiling.columns();
        for (i, pixels) in pixels.chunks_mut(2 * tiling.width).enumerate() {
            let m: [_; POSITIONS] = from_fn(|position| &m[position * tiles + i * columns..][..columns]);
            let (upper, lower) = pixels.split_at_mut(tiling.width);
            write_pixels(upper, bias, columns, |column, tile| {
                m[column][tile] + m[4 + column][tile] + m[8 + column][tile]
            });
            write_pixels(lower, bias, columns, |column, tile| {
                m[4 + column][tile] - m[8 + column][tile] - m[12 + column][tile]
            });
        }
    }
}

/// One row of an image with a pixel of padding on either side, so that the four columns of a tile t are
/// left[t], right[t], left[t + 1], right[t + 1].
struct PixelRow<T> {
    left: Vec<T>,
    right: Vec<T>,
}

impl<T: Element> PixelRow<T> {
    #[inline(always)]
    fn new(columns: usize) -> Self {
        Self { left: vec![T::zero(); columns + 1], right: vec![T::zero(); columns + 1] }
    }

    #[inline(always)]
    fn clear(&mut self) {
        self.left.fill(T::zero());
        self.right.fill(T::zero());
    }

    /// The padding is zero and stays so.
    #[inline(always)]
    fn read(&mut self, row: &[T]) {
        let (pairs, last) = row.as_chunks::<2>();
        for (([even, odd], right), left) in pairs.iter().zip(&mut self.right).zip(&mut self.left[1..]) {
            (*right, *left) = (*even, *odd);
        }
        if let [last] = last {
            self.right[pairs.len()] = *last;
        }
    }
}

/// One row of Bᵀ d B for a row of tiles, where `combine(a, b)` is that row of Bᵀ d.
#[inline(always)]
fn image_points<T: Element>(a: &PixelRow<T>, b: &PixelRow<T>, combine: impl Fn(T, T) -> T, points: [&mut [T]; 4]) {
    let [v0, v1, v2, v3] = points;
    let tiles = v0.len();
    let (v1, v2, v3) = (&mut v1[..tiles], &mut v2[..tiles], &mut v3[..tiles]);
    let [a_left, a_right, b_left, b_right] = [&a.left, &a.right, &b.left, &b.right].map(|v| &v[..=tiles]);
    for t in 0..tiles {
        let d0 = combine(a_left[t], b_left[t]);
        let d1 = combine(a_right[t], b_right[t]);
        let d2 = combine(a_left[t + 1], b_left[t + 1]);
        let d3 = combine(a_right[t + 1], b_right[t + 1]);
        (v0[t], v1[t], v2[t], v3[t]) = (d0 - d2, d1 + d2, d2 - d1, d1 - d3);
    }
}

/// A row of pixels, two from the four columns of Aᵀ m in each of `tiles` tiles; none if the row lies below the image.
#[inline(always)]
fn write_pixels<T: Element>(row: &mut [T], bias: T, tiles: usize, point: impl Fn(usize, usize) -> T) {
    let (pairs, last) = row.as_chunks_mut::<2>();
    for (tile, pair) in pairs.iter_mut().enumerate().take(tiles) {
        let [s0, s1, s2, s3] = from_fn(|column| point(column, tile));
        *pair = [bias + (s0 + s1 + s2), bias + (s1 - s2 - s3)];
    }
    if let [last] = last {
        *last = bias + (point(0, tiles - 1) + point(1, tiles - 1) + point(2, tiles - 1));
    }
}

#[inline(always)]
fn quarters<T>(whole: &mut [T]) -> [&mut [T]; 4] {
    let (upper, lower) = whole.split_at_mut(whole.len() / 2);
    let (first, second) = upper.split_at_mut(upper.len() / 2);
    let (third, fourth) = lower.split_at_mut(lower.len() / 2);
    [first, second, third, fourth]
}

/// Whether this algorithm is the faster one: enough channels to pay for transforming pixels, enough tiles to pay for
/// transforming filters.
pub(super) fn pays(inputs: usize, outputs: usize, height: usize, width: usize) -> bool {
    inputs.min(outputs) >= 32 && Tiling { height, width }.tiles() >= 64
}

/// Convolves the image `x` [inputs, height, width] into `y` [outputs, height, width].
pub(super) fn convolve<T: Element>(
    filters: Filters<'_, T>,
    bias: Option<&[T]>,
    x: &[T],
    [height, width]: [usize; 2],
    y: &mut [T],
) {
    let tiling = Tiling { height, width };
    let pixels = height * width;
    let y = MatrixMut::new(y, filters.outputs, pixels, pixels);
    let finish = |u: &[T], v: &[T], m: &mut Vec<T>, first_output: usize, y: &mut MatrixMut<'_, T>| {
        let tiles = v.len() / filters.inputs / POSITIONS - 1;
        let stride = padded(tiles);
        m.resize(y.rows() * stride, T::zero());
        for position in 0..POSITIONS {
            let u = filters.at_position(u, position, y.rows());
            let v = Matrix::new(&v[position * tiles..], filters.inputs, tiles, stride);
            MatrixMut::new(&mut m[position * tiles..], y.rows(), tiles, stride).multiply(false, u, v);
        }
        for (i, m) in m.chunks_exact(stride).enumerate().take(y.rows()) {
            let bias = bias.map_or(T::zero(), |bias| bias[first_output + i]);
            output_pixels(tiling, m, tiles, bias, y.row(i));
        }
    };
    if tiling.tiles() >= MANY_TILES {
        let u = filters.transform(0..filters.outputs);
        let rows = (TASK_TILES / tiling.columns()).max(1);
        let blocks = y.blocks(filters.outputs, 2 * rows * width);
        blocks.into_par_iter().enumerate().for_each_init(
            || (Vec::new(), Vec::new()),
            |(v, m), (i, mut y)| {
                let rows = i * rows..((i + 1) * rows).min(tiling.rows());
                let stride = padded(rows.len() * tiling.columns());
                v.resize(filters.inputs * stride, T::zero());
                for (v, plane) in v.chunks_exact_mut(stride).zip(x.chunks_exact(pixels)) {
                    transform_image(tiling, plane, rows.clone(), v);
                }
                finish(&u, v, m, 0, &mut y);
            },
        );
    } else {
        let stride = padded(tiling.tiles());
        let mut v = vec![T::zero(); filters.inputs * stride];
        let work = 4 * v.len();
        for_each_chunk(&mut v, stride, work, |channel, v| {
            transform_image(tiling, &x[channel * pixels..][..pixels], 0..tiling.rows(), v);
        });
        let blocks = y.blocks(TASK_OUTPUTS, pixels);
        blocks.into_par_iter().enumerate().for_each_init(Vec::new, |m, (i, mut y)| {
            let outputs = i * TASK_OUTPUTS..i * TASK_OUTPUTS + y.rows();
            finish(&filters.transform(outputs.clone()), &v, m, outputs.start, &mut y);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::super::gradient_check::{assert_close, difference, random};
    use super::super::patches::Geometry;
    use super::*;
    use candle_core::{DType, Device, Tensor};

    fn values<T: Element>(tensor: &Tensor) -> Vec<T> {
        tensor.to_dtype(T::DTYPE).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    }

    /// `weight`: as [`Filters::weight`]; `x`: [1, inputs, height, width].
    fn convolved<T: Element>(weight: &Tensor, adjoint: bool, bias: Option<&Tensor>, x: &Tensor) -> Tensor {
        let (first, second, _, _) = weight.dims4().unwrap();
        let (outputs, inputs) = if adjoint { (second, first) } else { (first, second) };
        let (_, _, height, width) = x.dims4().unwrap();
        let weight = values::<T>(weight);
        let bias = bias.map(values::<T>);
        let mut y = vec![T::from_f64(f64::NAN); outputs * height * width];
        let filters = Filters { weight: &weight, inputs, outputs, adjoint };
        convolve(filters, bias.as_deref(), &values::<T>(x), [height, width], &mut y);
        Tensor::from_vec(y, (1, outputs, height, width), &Device::Cpu).unwrap()
    }

    #[test]
    fn equals_candles_convolution_and_its_adjoint_at_odd_sizes_with_few_and_with_many_tiles() {
        // (inputs, outputs, height, width)
        let cases = [
            (1, 1, 1, 1),
            (3, 2, 2, 5),
            (5, 4, 7, 1),
            (7, 161, 9, 6),
            (6, 5, 47, 45),
            (2, 3, 3, 1025),
            (2, 3, 46, 512),
        ];
        for (inputs, outputs, height, width) in cases {
            let weight = random(&[outputs, inputs, 3, 3], 1);
            let (bias, x) = (random(&[outputs], 2), random(&[1, inputs, height, width], 3));
            let expected = x.conv2d(&weight, 1, 1, 1, 1).unwrap();
            let biased = expected.broadcast_add(&bias.reshape((1, outputs, 1, 1)).unwrap()).unwrap();
            assert_close(&convolved::<f64>(&weight, false, Some(&bias), &x), &biased, 1e-12);
            assert_close(&convolved::<f64>(&weight, false, None, &x), &expected, 1e-12);
            let turned = weight.flip(&[2, 3]).unwrap().transpose(0, 1).unwrap().contiguous().unwrap();
            assert_close(&convolved::<f64>(&turned, true, None, &x), &expected, 1e-12);
        }
    }

    #[test]
    fn rounding_in_f32_is_not_worse_than_twice_that_of_the_direct_method() {
        let (channels, side) = (512, 16);
        let weight = random(&[channels, channels, 3, 3], 1);
        let x = random(&[1, channels, side, side], 2);
        let rounded = |tensor: &Tensor| tensor.to_dtype(DType::F32).unwrap().to_dtype(DType::F64).unwrap();
        let expected = convolved::<f64>(&rounded(&weight), false, None, &rounded(&x));
        let (inputs, outputs, height, width, out_height, out_width) = (channels, channels, side, side, side, side);
        let g = Geometry { inputs, outputs, kernel: 3, stride: 1, padding: 1, height, width, out_height, out_width };
        let mut direct = vec![0f32; channels * side * side];
        g.gather(&values::<f32>(&weight), None, &values::<f32>(&x), &mut direct);
        let direct = Tensor::from_vec(direct, expected.dims(), &Device::Cpu).unwrap();
        let error = |y: &Tensor| {
            let squares = (y.to_dtype(DType::F64).unwrap() - &expected).unwrap().sqr().unwrap();
            squares.mean_all().unwrap().to_scalar::<f64>().unwrap().sqrt()
        };
        let winograd = convolved::<f32>(&weight, false, None, &x);
        let scale = expected.sqr().unwrap().mean_all().unwrap().to_scalar::<f64>().unwrap().sqrt();
        println!("relative to {scale}: Winograd {:e}, direct {:e}", error(&winograd) / scale, error(&direct) / scale);
        println!(
            "largest: Winograd {:e}, direct {:e}",
            difference(&winograd, &expected),
            difference(&direct, &expected)
        );
        assert!(error(&winograd) <= 2.0 * error(&direct), "{:e} against {:e}", error(&winograd), error(&direct));
    }
}
