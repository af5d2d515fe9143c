//! The part of Python's pickle format (protocol 2) that a PyTorch state dict needs: numbers, texts, tuples, lists, dicts, and the
//! functions that put a tensor together from a storage. Opcodes as CPython's `pickletools` lists them.
//!
//! Nothing is executed: a pickle that names any other class or function is refused by that name. Objects live in one list
//! and refer to each other by number, so that a hostile pickle costs no more memory than its own length and no recursion.

use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};

/// Why a pickle is no state dict. Reads after "is an archive of PyTorch, but ".
#[derive(Debug, thiserror::Error)]
pub enum PickleError {
    #[error("it names `{0}`, which is no part of a state dict: load it in Python and save its state_dict() alone")]
    Foreign(String),
    #[error(
        "its pickle has the opcode {opcode:#04x} at byte {at}, which no state dict needs: save its state_dict() alone"
    )]
    Opcode { opcode: u8, at: usize },
    #[error("its pickle is damaged at byte {at}: {what}")]
    Damaged { at: usize, what: &'static str },
    #[error("it is no state dict: it holds {0}")]
    NoState(String),
}

/// A tensor as a view of a storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub storage: Storage,
    /// In elements.
    pub offset: usize,
    pub shape: Vec<usize>,
    /// In elements.
    pub strides: Vec<usize>,
}

/// A run of elements, in a file of its own of the archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Storage {
    pub dtype: Dtype,
    pub key: String,
    /// Elements.
    pub len: usize,
}

/// Dicts that hold a state dict, in the order in which they are looked for: Lightning and OpenCLIP, BrainDiVE, others.
const WRAPPERS: [&str; 4] = ["state_dict", "network", "model_state_dict", "model"];

/// The state dict in a pickle: the dict itself, or the one below a name of [`WRAPPERS`]. The prefix `module.`, which data
/// parallel training leaves, is taken off.
pub(crate) fn state_dict(pickle: &[u8]) -> Result<BTreeMap<String, View>, PickleError> {
    let mut machine = Machine {
        bytes: pickle,
        at: 0,
        objects: Vec::new(),
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
    };
    let root = machine.run()?;
    machine.state(root)
}

/// The number of an object.
type Id = usize;

#[derive(Debug, Clone)]
enum Object {
    None,
    Bool,
    Int(i64),
    Float,
    Text(String),
    Tuple(Vec<Id>),
    List,
    Dict(Vec<(Id, Id)>),
    Global(Global),
    Storage(Storage),
    Tensor(View),
}

/// The classes and functions that a state dict names.
#[derive(Debug, Clone, Copy)]
enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    StorageOf(Dtype),
}

impl Global {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "collections.OrderedDict" => Self::OrderedDict,
            "torch._utils._rebuild_tensor_v2" => Self::RebuildTensor,
            "torch._utils._rebuild_parameter" => Self::RebuildParameter,
            "torch.DoubleStorage" => Self::StorageOf(Dtype::F64),
            "torch.FloatStorage" => Self::StorageOf(Dtype::F32),
            "torch.HalfStorage" => Self::StorageOf(Dtype::F16),
            "torch.BFloat16Storage" => Self::StorageOf(Dtype::BF16),
            "torch.LongStorage" => Self::StorageOf(Dtype::I64),
            "torch.IntStorage" => Self::StorageOf(Dtype::I32),
            "torch.ShortStorage" => Self::StorageOf(Dtype::I16),
            "torch.CharStorage" => Self::StorageOf(Dtype::I8),
            "torch.ByteStorage" => Self::StorageOf(Dtype::U8),
            "torch.BoolStorage" => Self::StorageOf(Dtype::BOOL),
            _ => return None,
        })
    }
}

struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    objects: Vec<Object>,
    stack: Vec<Id>,
    /// Heights of the stack at its marks.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    /// Runs to the end and returns the object that the pickle describes.
    fn run(&mut self) -> Result<Id, PickleError> {
        loop {
            let at = self.at;
            let [opcode] = self.word()?;
            match opcode {
                0x80 => drop(self.word::<1>()?), // PROTO
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'N' => self.push(Object::None),
                0x88 | 0x89 => self.push(Object::Bool), // NEWTRUE, NEWFALSE
                b'K' => {
                    let [value] = self.word()?;
                    self.push(Object::Int(value.into()));
                }
                b'M' => {
                    let value = u16::from_le_bytes(self.word()?);
                    self.push(Object::Int(value.into()));
                }
                b'J' => {
                    let value = i32::from_le_bytes(self.word()?);
                    self.push(Object::Int(value.into()));
                }
                0x8a => self.long()?, // LONG1
                b'G' => {
                    self.word::<8>()?;
                    self.push(Object::Float);
                }
                b'X' => {
                    let length = u32::from_le_bytes(self.word()?);
                    let text = self.text(length as usize)?.to_owned();
                    self.push(Object::Text(text));
                }
                b')' => self.push(Object::Tuple(Vec::new())),
                0x85..=0x87 => {
                    let items = self.pop_many(usize::from(opcode - 0x84))?;
                    self.push(Object::Tuple(items));
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Object::Tuple(items));
                }
                b']' => self.push(Object::List),
                b'a' => {
                    self.pop()?;
                    self.expect_list()?;
                }
                b'e' => {
                    self.pop_to_mark()?;
                    self.expect_list()?;
                }
                b'}' => self.push(Object::Dict(Vec::new())),
                b's' => {
                    let pair = self.pop_many(2)?;
                    self.insert(&pair)?;
                }
                b'u' => {
                    let pairs = self.pop_to_mark()?;
                    self.insert(&pairs)?;
                }
                b'q' => {
                    let [slot] = self.word()?;
                    self.memorise(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.word()?);
                    self.memorise(slot)?;
                }
                b'h' => {
                    let [slot] = self.word()?;
                    self.recall(slot.into())?;
                }
                b'j' => {
                    let slot = u32::from_le_bytes(self.word()?);
                    self.recall(slot)?;
                }
                b'c' => {
                    let name = format!("{}.{}", self.line()?, self.line()?);
                    let global = Global::named(&name).ok_or(PickleError::Foreign(name))?;
                    self.push(Object::Global(global));
                }
                b'Q' => {
                    let storage = self.storage()?;
                    self.push(Object::Storage(storage));
                }
                b'R' => {
                    let called = self.call()?;
                    self.push(called);
                }
                b'b' => self.build()?,
                opcode => return Err(PickleError::Opcode { opcode, at }),
            }
        }
    }

    fn damaged(&self, what: &'static str) -> PickleError {
        PickleError::Damaged { at: self.at, what }
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], PickleError> {
        let word = *self.bytes[self.at..].first_chunk::<N>().ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += N;
        Ok(word)
    }

    fn text(&mut self, length: usize) -> Result<&'a str, PickleError> {
        let text = self.bytes[self.at..].get(..length).ok_or_else(|| self.damaged("it ends too early"))?;
        let text = str::from_utf8(text).map_err(|_| self.damaged("a text is not UTF-8"))?;
        self.at += length;
        Ok(text)
    }

    fn line(&mut self) -> Result<&'a str, PickleError> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let line = self.text(length.ok_or_else(|| self.damaged("a name does not end"))?)?;
        self.at += 1;
        Ok(line)
    }

    /// An integer of up to 8 bytes, little-endian two's complement.
    fn long(&mut self) -> Result<(), PickleError> {
        let [length] = self.word()?;
        let bytes =
            self.bytes[self.at..].get(..usize::from(length)).ok_or_else(|| self.damaged("it ends too early"))?;
        if bytes.len() > 8 {
            return Err(self.damaged("an integer has more than 64 bits"));
        }
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut word = [sign; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len();
        self.push(Object::Int(i64::from_le_bytes(word)));
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.objects.len());
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Id, PickleError> {
        self.stack.pop().ok_or_else(|| self.damaged("its stack is empty"))
    }

    fn pop_many(&mut self, count: usize) -> Result<Vec<Id>, PickleError> {
        let height = self.stack.len().checked_sub(count).ok_or_else(|| self.damaged("its stack is empty"))?;
        Ok(self.stack.split_off(height))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => Err(self.damaged("a mark is missing")),
        }
    }

    fn top(&self) -> Result<Id, PickleError> {
        self.stack.last().copied().ok_or_else(|| self.damaged("its stack is empty"))
    }

    fn memorise(&mut self, slot: u32) -> Result<(), PickleError> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), PickleError> {
        let id = *self.memo.get(&slot).ok_or_else(|| self.damaged("it recalls what it never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    /// Items of lists are dropped: a state dict has none that matter.
    fn expect_list(&self) -> Result<(), PickleError> {
        match self.objects[self.top()?] {
            Object::List => Ok(()),
            _ => Err(self.damaged("it appends to what is no list")),
        }
    }

    fn insert(&mut self, items: &[Id]) -> Result<(), PickleError> {
        let top = self.top()?;
        let (pairs, rest) = items.as_chunks::<2>();
        match &mut self.objects[top] {
            Object::Dict(dict) if rest.is_empty() => {
                dict.extend(pairs.iter().map(|&[key, value]| (key, value)));
                Ok(())
            }
            _ => Err(self.damaged("it inserts into what is no dict")),
        }
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match &self.objects[id] {
            Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    fn index(&self, id: Id) -> Option<usize> {
        match self.objects[id] {
            Object::Int(value) => usize::try_from(value).ok(),
            _ => None,
        }
    }

    fn indices(&self, id: Id) -> Option<Vec<usize>> {
        self.tuple(id)?.iter().map(|&id| self.index(id)).collect()
    }

    fn key(&self, id: Id) -> Option<&str> {
        match &self.objects[id] {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// ("storage", class, key, device, elements)
    fn storage(&mut self) -> Result<Storage, PickleError> {
        let id = self.pop()?;
        let read = || {
            let &[kind, class, key, _device, len] = self.tuple(id)? else { return None };
            let Object::Global(Global::StorageOf(dtype)) = self.objects[class] else { return None };
            (self.key(kind)? == "storage").then_some(())?;
            Some(Storage { dtype, key: self.key(key)?.to_owned(), len: self.index(len)? })
        };
        read().ok_or_else(|| self.damaged("a storage is not described as PyTorch does"))
    }

    fn call(&mut self) -> Result<Object, PickleError> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let call = || match (&self.objects[function], self.tuple(arguments)?) {
            (Object::Global(Global::OrderedDict), []) => Some(Object::Dict(Vec::new())),
            // Of a tensor: storage, offset, shape, strides, requires_grad, hooks; of a parameter: tensor, requires_grad, hooks.
            (Object::Global(Global::RebuildTensor), &[storage, offset, shape, strides, ..]) => {
                let Object::Storage(storage) = self.objects[storage].clone() else { return None };
                let (shape, strides) = (self.indices(shape)?, self.indices(strides)?);
                let view = View { storage, offset: self.index(offset)?, shape, strides };
                (view.shape.len() == view.strides.len()).then_some(Object::Tensor(view))
            }
            (Object::Global(Global::RebuildParameter), &[data, ..]) => match &self.objects[data] {
                Object::Tensor(view) => Some(Object::Tensor(view.clone())),
                _ => None,
            },
            _ => None,
        };
        call().ok_or_else(|| self.damaged("it calls a function in a way that PyTorch does not"))
    }

    /// Attributes of a dict (`_metadata` of a module's state) are dropped.
    fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        match self.objects[self.top()?] {
            Object::Dict(_) => Ok(()),
            _ => Err(self.damaged("it sets attributes of what is no dict")),
        }
    }

    fn state(&self, root: Id) -> Result<BTreeMap<String, View>, PickleError> {
        let Object::Dict(mut entries) = self.objects[root].clone() else {
            return Err(PickleError::NoState("no dict".to_owned()));
        };
        for wrapper in WRAPPERS {
            let found = entries.iter().find(|(key, _)| self.key(*key) == Some(wrapper));
            if let Some(Object::Dict(inner)) = found.map(|&(_, value)| &self.objects[value]) {
                entries = inner.clone();
                break;
            }
        }
        let tensors: BTreeMap<&str, &View> = entries
            .iter()
            .filter_map(|&(key, value)| match &self.objects[value] {
                Object::Tensor(view) => Some((self.key(key)?, view)),
                _ => None,
            })
            .collect();
        if tensors.is_empty() {
            let keys: Vec<&str> = entries.iter().filter_map(|&(key, _)| self.key(key)).take(8).collect();
            let held =
                if keys.is_empty() { "no tensors".to_owned() } else { format!("no tensors, but {}", keys.join(", ")) };
            return Err(PickleError::NoState(held));
        }
        let parallel = tensors.keys().all(|key| key.starts_with("module."));
        let plain = |key: &str| if parallel { key["module.".len()..].to_owned() } else { key.to_owned() };
        Ok(tensors.into_iter().map(|(key, view)| (plain(key), view.clone())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(pickle: &[u8]) -> String {
        state_dict(pickle).unwrap_err().to_string()
    }

    #[test]
    fn a_pickle_that_would_run_code_is_refused_by_the_name_of_the_function() {
        assert!(refusal(b"cos\nsystem\nX\x02\0\0\0ls\x85R.").contains("`os.system`"));
        assert!(refusal(b"\x80\x02cnumpy.core.multiarray\nscalar\n.").contains("`numpy.core.multiarray.scalar`"));
        assert!(refusal(b"ios\nsystem\n.").contains("opcode 0x69 at byte 0"));
    }

    #[test]
    fn what_is_no_state_dict_says_what_it_holds() {
        assert!(refusal(b"}X\x05\0\0\0epochK\x03s.").contains("no tensors, but epoch"));
        assert!(refusal(b"K\x01.").contains("no dict"));
    }

    #[test]
    fn a_dict_that_holds_itself_costs_nothing() {
        assert!(refusal(b"}q\0X\x05\0\0\0modelh\0s.").contains("no tensors, but model"));
    }

    #[test]
    fn nested_doubling_costs_no_more_than_the_pickle() {
        let mut pickle = b")".to_vec();
        for slot in 0..200u8 {
            pickle.extend([b'q', slot, b'h', slot, 0x86]);
        }
        pickle.push(b'.');
        assert!(refusal(&pickle).contains("no dict"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_are_an_error_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            prop_assert!(state_dict(&bytes).is_err());
        }

        #[test]
        fn arbitrary_programs_are_an_error_and_no_panic(
            opcodes in proptest::collection::vec(proptest::sample::select(&b"(N\x88K)\x85\x86t]ae}suqhcQRb."[..]), 0..64),
        ) {
            prop_assert!(state_dict(&opcodes).is_err());
        }
    }
}
