//! PNG files: any bytes are an image or an error, and what was read can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use subject::image::png;

fuzz_target!(|bytes: &[u8]| {
    let Ok((image, _)) = png::decode(bytes) else { return };
    let written = png::encode(&image, &png::Text::new()).expect("an image can be written");
    let (again, _) = png::decode(&written).expect("what was written can be read");
    assert_eq!(image, again);
});
