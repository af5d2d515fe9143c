//! PNG files that carry their provenance: pixels and iTXt entries (PNG specification, third edition, section 11.3.3.4).

use super::{ImageError, RgbImage8};
use png::{BitDepth, ColorType, Compression, Decoder, Encoder, Filter, Transformations};
use std::collections::BTreeMap;
use std::io::{self, Cursor};
use std::path::{Path, PathBuf};

/// Metadata of an image: keyword (1 to 79 Latin-1 characters) to UTF-8 text.
pub type Text = BTreeMap<String, String>;

/// The PNG file of an image with one uncompressed iTXt entry per keyword. The same image and text give the same bytes.
pub fn encode(image: &RgbImage8, text: &Text) -> Result<Vec<u8>, ImageError> {
    let mut file = Vec::new();
    let mut encoder = Encoder::new(&mut file, image.width() as u32, image.height() as u32);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Balanced);
    encoder.set_filter(Filter::Adaptive);
    for (keyword, text) in text {
        let latin1 = keyword.chars().all(|character| (character as u32) < 256);
        if !latin1 || !(1..=79).contains(&keyword.chars().count()) {
            return Err(ImageError::Keyword { keyword: keyword.clone() });
        }
        encoder.add_itxt_chunk(keyword.clone(), text.clone()).map_err(ImageError::Encode)?;
    }
    let mut writer = encoder.write_header().map_err(ImageError::Encode)?;
    writer.write_image_data(image.pixels()).map_err(ImageError::Encode)?;
    writer.finish().map_err(ImageError::Encode)?;
    Ok(file)
}

/// Pixels along a side that are read: a damaged header must not ask for more memory than there is.
const LONGEST_SIDE: u32 = 1 << 14;

/// Pixels and iTXt entries of a PNG file. Grey images become RGB, 16-bit samples lose their low byte, and
/// transparency is dropped, as PIL's `convert("RGB")` does.
pub fn decode(file: &[u8]) -> Result<(RgbImage8, Text), ImageError> {
    let mut decoder = Decoder::new(Cursor::new(file));
    decoder.set_transformations(Transformations::normalize_to_color8());
    let mut reader = decoder.read_info().map_err(ImageError::Decode)?;
    let (width, height) = reader.info().size();
    if width.max(height) > LONGEST_SIDE {
        return Err(ImageError::TooLarge { width, height, most: LONGEST_SIDE });
    }
    let mut samples = vec![0; reader.output_buffer_size().unwrap_or(0)];
    let frame = reader.next_frame(&mut samples).map_err(ImageError::Decode)?;
    samples.truncate(frame.buffer_size());
    let pixels = match frame.color_type.samples() {
        3 => samples,
        4 => samples.chunks_exact(4).flat_map(|rgba| [rgba[0], rgba[1], rgba[2]]).collect(),
        grey => samples.chunks_exact(grey).flat_map(|grey| [grey[0]; 3]).collect(),
    };
    let image = RgbImage8::new(frame.width as usize, frame.height as usize, pixels)?;
    reader.finish().map_err(ImageError::Decode)?;
    let mut text = Text::new();
    for entry in &reader.info().utf8_text {
        text.insert(entry.keyword.clone(), entry.get_text().map_err(ImageError::Decode)?);
    }
    Ok((image, text))
}

/// [`decode`] of a file on disk; every error names it.
pub fn read(path: &Path) -> Result<(RgbImage8, Text), ImageError> {
    let file = std::fs::read(path).map_err(|source| ImageError::Read { path: path.to_owned(), source })?;
    decode(&file).map_err(|source| ImageError::File { path: path.to_owned(), source: Box::new(source) })
}

/// All PNG files of a folder, by name.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>, ImageError> {
    let failed = |source| ImageError::Read { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("png")) {
            files.push(path);
        }
    }
    files.sort_unstable();
    match files.is_empty() {
        false => Ok(files),
        true => Err(failed(io::Error::new(io::ErrorKind::NotFound, "it holds no PNG file"))),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn image() -> RgbImage8 {
        RgbImage8::new(7, 5, (0..105u32).map(|at| (at * at * 31 % 251) as u8).collect()).unwrap()
    }

    fn text() -> Text {
        [("gamma", "130"), ("region", "FFA − OFA, “γ”\nsecond line"), ("braindive.seed", "42")]
            .map(|(keyword, text)| (keyword.to_owned(), text.to_owned()))
            .into()
    }

    #[test]
    fn pixels_and_text_read_back_as_written_and_bytes_repeat() {
        let file = encode(&image(), &text()).unwrap();
        assert_eq!(decode(&file).unwrap(), (image(), text()));
        assert_eq!(file, encode(&image(), &text()).unwrap());
        assert!(file.windows(4).any(|bytes| bytes == b"iTXt"));
    }

    #[test]
    fn grey_and_transparent_images_become_rgb() {
        for (color, samples, rgb) in [
            (ColorType::Grayscale, vec![9, 200], [9, 9, 9, 200, 200, 200]),
            (ColorType::GrayscaleAlpha, vec![9, 255, 200, 0], [9, 9, 9, 200, 200, 200]),
            (ColorType::Rgba, vec![1, 2, 3, 255, 4, 5, 6, 0], [1, 2, 3, 4, 5, 6]),
        ] {
            let mut file = Vec::new();
            let mut encoder = Encoder::new(&mut file, 2, 1);
            encoder.set_color(color);
            encoder.write_header().unwrap().write_image_data(&samples).unwrap();
            assert_eq!(decode(&file).unwrap().0.pixels(), rgb, "{color:?}");
        }
    }

    #[test]
    fn an_unusable_keyword_or_a_truncated_file_is_an_error() {
        let keyword = |keyword: &str| encode(&image(), &[(keyword.to_owned(), String::new())].into());
        assert!(matches!(keyword(""), Err(ImageError::Keyword { .. })));
        assert!(matches!(keyword(&"k".repeat(80)), Err(ImageError::Keyword { .. })));
        assert!(matches!(keyword("γ"), Err(ImageError::Keyword { .. })));

        let file = encode(&image(), &Text::new()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.png");
        std::fs::write(&path, &file[..file.len() / 2]).unwrap();
        let message = read(&path).unwrap_err().to_string();
        assert!(message.contains("cut.png"), "{message}");
    }

    #[test]
    fn a_header_that_asks_for_more_memory_than_there_is_is_refused() {
        let mut file = Vec::new();
        let mut encoder = ::png::Encoder::new(&mut file, 1 << 10, 1 << 30);
        encoder.set_color(::png::ColorType::Rgb);
        let mut writer = encoder.write_header().unwrap();
        writer.write_chunk(::png::chunk::IDAT, &[]).unwrap();
        drop(writer);
        let refusal = decode(&file).unwrap_err();
        assert!(matches!(refusal, ImageError::TooLarge { height: 1_073_741_824, .. }), "{refusal}");
    }
}
