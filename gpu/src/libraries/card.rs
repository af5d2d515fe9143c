//! The cards that a process sees.

use super::driver::Uuid;
use super::{Driver, LibraryError};
use crate::Needs;

/// A card, as the driver tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// N of `cuda:N`: its place among the cards that this process sees.
    pub ordinal: u32,
    /// `Tesla V100-SXM2-16GB`
    pub name: String,
    /// `GPU-7c1e0a52-…`, or `MIG-…` of a part of a card, as `nvidia-smi -L` prints it.
    pub uuid: String,
    /// (7, 0) for a V100, (9, 0) for an H100.
    pub capability: (u32, u32),
    /// Of its memory; how many are free, only a context on the card can tell.
    pub total_bytes: u64,
    /// The newest CUDA that the driver serves.
    pub cuda: (u32, u32),
    /// The driver's release, if its kernel module tells it.
    pub driver: Option<String>,
}

impl Card {
    /// Whether kernels that need `kernels` run on it.
    pub fn runs(&self, kernels: Needs) -> Result<(), LibraryError> {
        match kernels.met_by(self.capability) {
            true => Ok(()),
            false => Err(LibraryError::OtherCard { card: Box::new(self.clone()), kernels }),
        }
    }

    /// Whether it computes in bf16, as Ampere and later do.
    pub fn has_bf16(&self) -> bool {
        self.capability >= (8, 0)
    }
}

/// All cards that this process sees. Makes no context, hence takes no memory of a card.
pub fn devices() -> Result<Vec<Card>, LibraryError> {
    let driver = Driver::start()?;
    (0..driver.count()?).map(|ordinal| describe(driver, ordinal)).collect()
}

/// The card that `cuda:N` names.
pub fn card(ordinal: u32) -> Result<Card, LibraryError> {
    let cards = devices()?;
    let names: Vec<String> = cards.iter().map(|card| format!("cuda:{} {}", card.ordinal, card.name)).collect();
    let seen = cards.len();
    let found = cards.into_iter().find(|card| card.ordinal == ordinal);
    found.ok_or_else(|| LibraryError::NoSuchCard { ordinal, seen, names: names.join(", ") })
}

fn describe(driver: &Driver, ordinal: u32) -> Result<Card, LibraryError> {
    let device = driver.device(ordinal)?;
    Ok(Card {
        ordinal,
        name: driver.name(device)?,
        uuid: uuid(driver.uuid(device)?),
        capability: driver.capability(device)?,
        total_bytes: driver.total_bytes(device)?,
        cuda: driver.cuda(),
        driver: driver.release(),
    })
}

fn uuid(Uuid { own, card }: Uuid) -> String {
    let kind = if own == card { "GPU" } else { "MIG" };
    let hex: Vec<String> = own.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..4], &hex[4..6], &hex[6..8], &hex[8..10], &hex[10..]];
    format!("{kind}-{}", parts.map(|part| part.concat()).join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_is_written_as_nvidia_smi_writes_it() {
        let bytes = std::array::from_fn(|place| (place * 17) as u8);
        assert_eq!(uuid(Uuid { own: bytes, card: bytes }), "GPU-00112233-4455-6677-8899-aabbccddeeff");
        assert_eq!(uuid(Uuid { own: bytes, card: [0; 16] }), "MIG-00112233-4455-6677-8899-aabbccddeeff");
    }
}
