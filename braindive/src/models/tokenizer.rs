//! CLIP's byte-pair tokenizer (Radford et al. 2021, section 2.4) from `vocab.json` and `merges.txt`, as `transformers` runs it for
//! Stable Diffusion's text encoder and as OpenCLIP runs it for CLIP and CoCa.
//!
//! The two agree on plain text, and differ in what they read into punctuation ([`Dialect`]). OpenCLIP also cleans a text with
//! `ftfy` and `html.unescape`; of that cleaning only the curly apostrophe U+2019 is done here, since the paper prints one, so a
//! prompt with HTML entities, ligatures, full-width punctuation or a dotted capital İ gets other ids than OpenCLIP gives it.

use candle_core::{Device, Tensor};
use std::path::{Path, PathBuf};
use tokenizers::models::bpe::{BPE, Merges, Vocab};
use tokenizers::normalizers::{Lowercase, NFC, Replace, replace::ReplacePattern};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

const START: &str = "<|startoftext|>";
const END: &str = "<|endoftext|>";

/// Contractions, runs of letters, single digits, runs of anything else but white space.
const WORDS: &str = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";

/// Whose ids a tokenizer gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `transformers`, for Stable Diffusion's text encoder: the special tokens are recognised inside a text, and so is the padding
    /// token. Stable Diffusion 2 pads with `!`, hence a literal `!` becomes its id 0.
    Transformers,
    /// OpenCLIP, for CLIP and CoCa: special tokens in a text are plain text, ’ is ', padding is id 0.
    OpenClip,
}

/// Texts to token ids.
#[derive(Debug)]
pub struct Tokenizer {
    pipeline: tokenizers::Tokenizer,
    start: u32,
    end: u32,
    padding: u32,
}

/// Why a tokenizer could not be read or used.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    #[error("reading a tokenizer from {vocab_file} and {merges_file}: {source}")]
    Read { vocab_file: PathBuf, merges_file: PathBuf, source: tokenizers::Error },
    #[error("reading {path}: {source}")]
    SpecialTokens { path: PathBuf, source: std::io::Error },
    #[error("reading {path} as JSON: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("building the tokenizer of {folder} from vocab.json and merges.txt: {source}")]
    Build { folder: PathBuf, source: tokenizers::Error },
    #[error("{path} has no token {token:?}; a CLIP vocabulary has one")]
    MissingToken { path: PathBuf, token: String },
    #[error("tokenizing {text:?}: {source}")]
    Encode { text: String, source: tokenizers::Error },
    #[error("putting token ids on the device: {0}")]
    Tensor(#[from] candle_core::Error),
}

impl Tokenizer {
    /// Reads `vocab.json` and `merges.txt` of a folder, and for [`Dialect::Transformers`] the padding token of
    /// `special_tokens_map.json` (the end token if it names none). Vocabularies may be truncated: ids are read, never assumed.
    pub fn load(folder: &Path, dialect: Dialect) -> Result<Self, TokenizerError> {
        let (vocab_file, merges_file) = (folder.join("vocab.json"), folder.join("merges.txt"));
        let (vocabulary, merges) = BPE::read_file(&vocab_file.to_string_lossy(), &merges_file.to_string_lossy())
            .map_err(|source| TokenizerError::Read { vocab_file: vocab_file.clone(), merges_file, source })?;
        let id = |token: &str| {
            let missing = || TokenizerError::MissingToken { path: vocab_file.clone(), token: token.to_owned() };
            vocabulary.get(token).copied().ok_or_else(missing)
        };
        let (start, end) = (id(START)?, id(END)?);
        let (padding, special) = match dialect {
            Dialect::Transformers => {
                let token = padding_token(folder)?;
                (id(&token)?, vec![START.to_owned(), END.to_owned(), token])
            }
            Dialect::OpenClip => (0, Vec::new()),
        };
        let pipeline = pipeline(vocabulary, merges, dialect, special)
            .map_err(|source| TokenizerError::Build { folder: folder.to_owned(), source })?;
        Ok(Self { pipeline, start, end, padding })
    }

    /// Start token, the text's tokens, end token; then padding, or a cut that keeps the end token, to `context` ids.
    pub fn encode(&self, text: &str, context: usize) -> Result<Vec<u32>, TokenizerError> {
        let words = self
            .pipeline
            .encode_fast(text, false)
            .map_err(|source| TokenizerError::Encode { text: text.to_owned(), source })?;
        let mut ids: Vec<u32> = [&[self.start], words.get_ids()].concat();
        ids.truncate(context.saturating_sub(1));
        ids.push(self.end);
        ids.resize(context, self.padding);
        Ok(ids)
    }

    /// [`encode`](Self::encode) of several texts: ids `[texts, context]`, u32.
    pub fn encode_batch<T: AsRef<str>>(
        &self,
        texts: &[T],
        context: usize,
        device: &Device,
    ) -> Result<Tensor, TokenizerError> {
        let mut ids = Vec::with_capacity(texts.len() * context);
        for text in texts {
            ids.extend(self.encode(text.as_ref(), context)?);
        }
        Ok(Tensor::from_vec(ids, (texts.len(), context), device)?)
    }
}

fn pipeline(
    vocabulary: Vocab,
    merges: Merges,
    dialect: Dialect,
    special: Vec<String>,
) -> tokenizers::Result<tokenizers::Tokenizer> {
    let model = BPE::builder()
        .vocab_and_merges(vocabulary, merges)
        .end_of_word_suffix("</w>".to_owned())
        .unk_token(END.to_owned())
        .build()?;
    let mut pipeline = tokenizers::Tokenizer::new(model);
    let mut cleaning: Vec<tokenizers::NormalizerWrapper> = vec![NFC.into()];
    if dialect == Dialect::OpenClip {
        cleaning.push(Replace::new("\u{2019}", "'")?.into());
    }
    cleaning.push(Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ")?.into());
    cleaning.push(Lowercase.into());
    pipeline.with_normalizer(Some(tokenizers::normalizers::Sequence::new(cleaning)))?;
    pipeline.with_pre_tokenizer(Some(PreTokenizers::new(vec![
        Split::new(SplitPattern::Regex(WORDS.to_owned()), SplitDelimiterBehavior::Removed, true)?.into(),
        ByteLevel::new(false, true, false).into(),
    ])));
    pipeline.add_special_tokens(special.into_iter().map(|token| AddedToken::from(token, true)))?;
    Ok(pipeline)
}

/// `pad_token` of `special_tokens_map.json`: a string, or an object with its `content`.
fn padding_token(folder: &Path) -> Result<String, TokenizerError> {
    let path = folder.join("special_tokens_map.json");
    if !path.exists() {
        return Ok(END.to_owned());
    }
    let text = std::fs::read(&path).map_err(|source| TokenizerError::SpecialTokens { path: path.clone(), source })?;
    let map: serde_json::Value =
        serde_json::from_slice(&text).map_err(|source| TokenizerError::Json { path: path.clone(), source })?;
    let token = &map["pad_token"];
    Ok(token.as_str().or_else(|| token["content"].as_str()).unwrap_or(END).to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use candle_core::{DType, safetensors};
    use std::collections::BTreeSet;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Texts of the reference whose ids differ from the column's, with padding left out.
    fn differing(dialect: Dialect, column: &str) -> BTreeSet<String> {
        let folder = repository().join("tests/reference/cases/vocab_nosag_s10/bundle/sd/tokenizer");
        let tokenizer = Tokenizer::load(&folder, dialect).unwrap();
        let reference = std::fs::read_to_string(repository().join("tests/reference/tokenizer.json")).unwrap();
        let reference: serde_json::Value = serde_json::from_str(&reference).unwrap();
        let rows = reference["rows"].as_array().unwrap();
        assert_eq!(rows.len(), 67);
        let ids = |row: &serde_json::Value| -> Vec<u32> {
            row[column].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
        };
        let text = |row: &serde_json::Value| row["text"].as_str().unwrap().to_owned();
        let differs = |row: &&serde_json::Value| {
            let mut expected = ids(row);
            expected.resize(77, 0);
            tokenizer.encode(&text(row), 77).unwrap() != expected
        };
        rows.iter().filter(differs).map(text).collect()
    }

    #[test]
    fn stable_diffusion_prompts_get_the_ids_of_transformers() {
        assert_eq!(differing(Dialect::Transformers, "hf"), BTreeSet::new());
    }

    #[test]
    fn clip_prompts_get_the_ids_of_openclip_but_where_it_cleans_a_text() {
        let cleaned = ["&lt;b&gt;bold&amp;amp;", "İstanbul ß ﬁne", "你好，世界"].map(str::to_owned).into();
        assert_eq!(differing(Dialect::OpenClip, "open_clip"), cleaned);
    }

    #[test]
    fn every_bundle_gets_the_reference_ids_of_its_prompts() {
        let cases = repository().join("tests/reference/cases");
        let mut bundles: Vec<_> = std::fs::read_dir(cases)
            .unwrap()
            .map(|case| (case.as_ref().unwrap().path(), case.unwrap().path().join("bundle")))
            .collect();
        bundles.push((repository().join("miniature/golden"), repository().join("miniature/bundle")));
        assert_eq!(bundles.len(), 6);
        let classes = protocol::probe::paper();
        let prompts: Vec<&str> = classes.iter().flat_map(|class| &class.prompts).map(String::as_str).collect();
        for (case, bundle) in bundles {
            let inputs = safetensors::load(case.join("inputs.safetensors"), &Device::Cpu).unwrap();
            let folder = bundle.join("sd/tokenizer");
            let diffusion = Tokenizer::load(&folder, Dialect::Transformers).unwrap();
            let clip = Tokenizer::load(&folder, Dialect::OpenClip).unwrap();
            for (key, found) in [
                ("token_ids", diffusion.encode_batch(&[""], 77, &Device::Cpu)),
                ("clip_tokens", clip.encode_batch(&prompts, 77, &Device::Cpu)),
                ("coca_tokens", clip.encode_batch(&prompts, 76, &Device::Cpu)),
            ] {
                let expected = inputs[key].to_dtype(DType::U32).unwrap().to_vec2::<u32>().unwrap();
                assert_eq!(found.unwrap().to_vec2::<u32>().unwrap(), expected, "{key} of {}", case.display());
            }
        }
    }

    #[test]
    fn a_long_text_is_cut_and_keeps_its_end_token() {
        let folder = repository().join("miniature/bundle/sd/tokenizer");
        let tokenizer = Tokenizer::load(&folder, Dialect::OpenClip).unwrap();
        let ids = tokenizer.encode(&"word ".repeat(100), 8).unwrap();
        assert_eq!((ids.len(), ids[0], ids[7]), (8, tokenizer.start, tokenizer.end));
    }

    #[test]
    fn a_vocabulary_without_an_end_token_is_an_error_that_names_file_and_token() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.json"), r#"{"!": 0, "<|startoftext|>": 1}"#).unwrap();
        std::fs::write(folder.path().join("merges.txt"), "#version: 0.2\n").unwrap();
        let message = Tokenizer::load(folder.path(), Dialect::OpenClip).unwrap_err().to_string();
        assert!(message.contains("vocab.json") && message.contains(END), "{message}");
        let missing = Tokenizer::load(Path::new("/nowhere"), Dialect::OpenClip).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/vocab.json"), "{missing}");
    }
}
