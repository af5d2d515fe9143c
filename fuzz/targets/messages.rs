//! What comes over the network: any bytes are a message or an error, and a message that is written and read again is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use protocol::{claim, endpoint, error, heartbeat, ids, job, outcome};
use serde::{Serialize, de::DeserializeOwned};

fn read<T: Serialize + DeserializeOwned>(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<T>(bytes) else { return };
    let written = serde_json::to_vec(&message).expect("a message can be written");
    let again: T = serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(written, serde_json::to_vec(&again).expect("a message can be written"));
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    match kind % 12 {
        0 => read::<claim::Register>(bytes),
        1 => read::<claim::Claim>(bytes),
        2 => read::<claim::Claimed>(bytes),
        3 => read::<heartbeat::Heartbeat>(bytes),
        4 => read::<heartbeat::HeartbeatReply>(bytes),
        5 => read::<heartbeat::Release>(bytes),
        6 => read::<outcome::Completed>(bytes),
        7 => read::<outcome::Failed>(bytes),
        8 => read::<job::Condition>(bytes),
        9 => read::<endpoint::Endpoint>(bytes),
        10 => read::<error::Refusal>(bytes),
        _ => {
            // A digest becomes a file name: nothing else than hexadecimal digits may.
            if let Ok(digest) = String::from_utf8_lossy(bytes).parse::<ids::Digest>() {
                assert!(digest.as_str().len() == 64 && digest.as_str().bytes().all(|byte| byte.is_ascii_hexdigit()));
            }
        }
    }
});
