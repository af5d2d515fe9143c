//! Filters of jobs, from the command line and from addresses of pages: any text is a filter or an error, and a filter that is written
//! and read again is the same.
#![no_main]

use coordinator::queue::Filter;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(filter) = text.parse::<Filter>() else { return };
    let again = filter.to_string().parse::<Filter>().expect("what was written can be read");
    assert_eq!(filter.to_string(), again.to_string());
});
