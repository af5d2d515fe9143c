//! Images as files: 8-bit pixels, PNG with metadata ([`png`]), and PIL's bicubic resizing ([`resize`]).

pub mod png;
pub mod resize;

use crate::error::may_pass;
use std::path::PathBuf;

/// An 8-bit RGB image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbImage8 {
    width: usize,
    height: usize,
    /// Row by row from the top, three bytes a pixel: red, green, blue.
    pixels: Vec<u8>,
}

/// Why an image could not be made, read or written.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    #[error("an RGB image of {width} x {height} pixels needs {} bytes, {found} were given", 3 * width * height)]
    Size { width: usize, height: usize, found: usize },
    #[error("writing the PNG: {0}")]
    Encode(#[source] ::png::EncodingError),
    #[error("PNG text keyword {keyword:?}: a keyword has 1 to 79 Latin-1 characters")]
    Keyword { keyword: String },
    #[error("the PNG says it has {width} x {height} pixels; expected {most} at most along each side")]
    TooLarge { width: u32, height: u32, most: u32 },
    #[error("reading the PNG: {0}")]
    Decode(#[source] ::png::DecodingError),
    #[error("reading {}: {source}", path.display())]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: Box<ImageError> },
}

impl ImageError {
    /// Whether another try may help.
    pub fn is_io(&self) -> bool {
        match self {
            Self::Read { source, .. } => may_pass(source),
            Self::File { source, .. } => source.is_io(),
            _ => false,
        }
    }
}

impl RgbImage8 {
    /// From pixels row by row from the top, three bytes (red, green, blue) a pixel.
    pub fn new(width: usize, height: usize, pixels: Vec<u8>) -> Result<Self, ImageError> {
        match pixels.len() == 3 * width * height && !pixels.is_empty() {
            true => Ok(Self { width, height, pixels }),
            false => Err(ImageError::Size { width, height, found: pixels.len() }),
        }
    }

    pub fn width(&self) -> usize {
        self.width
    }

    pub fn height(&self) -> usize {
        self.height
    }

    /// Row by row from the top, three bytes (red, green, blue) a pixel.
    pub fn pixels(&self) -> &[u8] {
        &self.pixels
    }
}
