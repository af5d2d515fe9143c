//! Python pickles, protocols 2 to 5, of NumPy arrays or texts in a list, or of what [`super::named`] reads (CPython's `pickletools`;
//! NumPy's `ndarray.__reduce_ex__`).
//!
//! Nothing is executed: a pickle that names any function but those that rebuild an array is refused by that name. Objects live in
//! one list and refer to each other by number, so that a hostile pickle costs no more memory than its own length and no recursion.

use super::array::{Array, Type};
use super::error::{ImportError, Problem};
use std::collections::HashMap;
use std::path::Path;

/// What a pickle holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pickled {
    /// One array, or those of a list, a tuple, or a dictionary's values.
    Arrays(Vec<Array>),
    /// The texts of a list.
    Texts(Vec<String>),
}

/// Reads the file `path`.
///
/// # Errors
/// It can't be read, would execute code, is damaged, or holds neither arrays nor texts; the error names it.
pub fn read(path: &Path) -> Result<Pickled, ImportError> {
    let file = std::fs::read(path).map_err(|source| Problem::Read(source).of(path))?;
    parse(&file).map_err(|problem| problem.of(path))
}

/// What the pickle in `bytes` holds.
///
/// # Errors
/// As [`read`].
pub fn parse(bytes: &[u8]) -> Result<Pickled, Problem> {
    let mut machine = Machine { bytes, ..Machine::default() };
    let root = machine.run()?;
    machine.result(root)
}

/// The number of an object.
pub(super) type Id = usize;

#[derive(Debug, Clone)]
pub(super) enum Object {
    /// Something that no array depends on.
    Other,
    Int(i64),
    Bool(bool),
    Text(String),
    Bytes(Vec<u8>),
    /// Of tuples, lists and dictionaries: a dictionary's keys and values in turn.
    Items(Items, Vec<Id>),
    Function(Function),
    Type(Type),
    /// NumPy's type of an array of Python objects.
    TypeOfObjects,
    /// An array before its state is set.
    Empty,
    Array(Array),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Items {
    Tuple,
    List,
    Dict,
}

/// The functions and classes that arrays are made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Function {
    Reconstruct,
    FromBuffer,
    Ndarray,
    Dtype,
    /// A single number.
    Scalar,
    /// How protocol 2 writes bytes: a text of Latin-1.
    Encode,
}

impl Function {
    fn named(name: &str) -> Option<Self> {
        Some(match name {
            "numpy.core.multiarray._reconstruct" | "numpy._core.multiarray._reconstruct" => Self::Reconstruct,
            "numpy.core.numeric._frombuffer" | "numpy._core.numeric._frombuffer" => Self::FromBuffer,
            "numpy.core.multiarray.scalar" | "numpy._core.multiarray.scalar" => Self::Scalar,
            "numpy.ndarray" => Self::Ndarray,
            "numpy.dtype" => Self::Dtype,
            "_codecs.encode" => Self::Encode,
            _ => return None,
        })
    }
}

/// The objects of the pickle in `bytes`, and which of them it describes.
///
/// # Errors
/// It would execute code or is damaged.
pub(super) fn objects(bytes: &[u8]) -> Result<(Vec<Object>, Id), Problem> {
    let mut machine = Machine { bytes, ..Machine::default() };
    let root = machine.run()?;
    Ok((machine.objects, root))
}

#[derive(Default)]
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
    fn run(&mut self) -> Result<Id, Problem> {
        loop {
            let at = self.at;
            let [opcode] = self.word()?;
            match opcode {
                0x80 => drop(self.word::<1>()?), // PROTO
                0x95 => drop(self.word::<8>()?), // FRAME
                b'.' => return self.pop(),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'N' => self.push(Object::Other),
                0x88 => self.push(Object::Bool(true)),
                0x89 => self.push(Object::Bool(false)),
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
                    self.push(Object::Other);
                }
                b'X' | 0x8c | 0x8d => {
                    let length = self.length(match opcode {
                        0x8c => 1,
                        b'X' => 4,
                        _ => 8,
                    })?;
                    let text = self.take(length)?;
                    let text = str::from_utf8(text).map_err(|_| self.damaged("a text is not UTF-8"))?;
                    self.push(Object::Text(text.to_owned()));
                }
                b'C' | b'B' | 0x8e | 0x96 => {
                    let length = self.length(match opcode {
                        b'C' => 1,
                        b'B' => 4,
                        _ => 8,
                    })?;
                    let bytes = self.take(length)?.to_vec();
                    self.push(Object::Bytes(bytes));
                }
                b')' => self.push(Object::Items(Items::Tuple, Vec::new())),
                0x85..=0x87 => {
                    let height = self.stack.len().checked_sub(usize::from(opcode - 0x84));
                    let items = self.stack.split_off(height.ok_or_else(|| self.damaged("its stack is empty"))?);
                    self.push(Object::Items(Items::Tuple, items));
                }
                b't' => {
                    let items = self.pop_to_mark()?;
                    self.push(Object::Items(Items::Tuple, items));
                }
                b']' => self.push(Object::Items(Items::List, Vec::new())),
                b'}' => self.push(Object::Items(Items::Dict, Vec::new())),
                b'a' => {
                    let item = self.pop()?;
                    self.extend(Items::List, vec![item])?;
                }
                b'e' => {
                    let items = self.pop_to_mark()?;
                    self.extend(Items::List, items)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.extend(Items::Dict, vec![key, value])?;
                }
                b'u' => {
                    let items = self.pop_to_mark()?;
                    self.extend(Items::Dict, items)?;
                }
                b'q' => {
                    let [slot] = self.word()?;
                    self.memorise(slot.into())?;
                }
                b'r' => {
                    let slot = u32::from_le_bytes(self.word()?);
                    self.memorise(slot)?;
                }
                0x94 => self.memorise(self.memo.len() as u32)?, // MEMOIZE
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
                    self.function(name)?;
                }
                0x93 => {
                    // STACK_GLOBAL
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Object::Text(module), Object::Text(name)) = (&self.objects[module], &self.objects[name])
                    else {
                        return Err(self.damaged("a function has no name"));
                    };
                    let name = format!("{module}.{name}");
                    self.function(name)?;
                }
                b'R' => self.call()?,
                b'b' => self.build()?,
                opcode => return Err(Problem::Opcode { opcode, at }),
            }
        }
    }

    fn damaged(&self, what: &'static str) -> Problem {
        Problem::Damaged { at: self.at, what }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Problem> {
        let taken = self.bytes[self.at..].get(..length).ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += length;
        Ok(taken)
    }

    fn word<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let word = *self.bytes[self.at..].first_chunk::<N>().ok_or_else(|| self.damaged("it ends too early"))?;
        self.at += N;
        Ok(word)
    }

    /// An unsigned number of up to 8 bytes.
    fn length(&mut self, bytes: usize) -> Result<usize, Problem> {
        let mut word = [0; 8];
        word[..bytes].copy_from_slice(self.take(bytes)?);
        usize::try_from(u64::from_le_bytes(word)).map_err(|_| self.damaged("a length is too large"))
    }

    fn line(&mut self) -> Result<&'a str, Problem> {
        let length = self.bytes[self.at..].iter().position(|&byte| byte == b'\n');
        let line = self.take(length.ok_or_else(|| self.damaged("a name does not end"))?)?;
        self.at += 1;
        str::from_utf8(line).map_err(|_| self.damaged("a name is not UTF-8"))
    }

    /// An integer of up to 8 bytes, little-endian two's complement.
    fn long(&mut self) -> Result<(), Problem> {
        let length = self.length(1)?;
        let bytes = self.take(length)?;
        if length > 8 {
            return Err(self.damaged("an integer has more than 64 bits"));
        }
        let sign = if bytes.last().is_some_and(|byte| byte & 0x80 != 0) { 0xff } else { 0 };
        let mut word = [sign; 8];
        word[..length].copy_from_slice(bytes);
        self.push(Object::Int(i64::from_le_bytes(word)));
        Ok(())
    }

    fn push(&mut self, object: Object) {
        self.stack.push(self.objects.len());
        self.objects.push(object);
    }

    fn pop(&mut self) -> Result<Id, Problem> {
        self.stack.pop().ok_or_else(|| self.damaged("its stack is empty"))
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, Problem> {
        match self.marks.pop() {
            Some(height) if height <= self.stack.len() => Ok(self.stack.split_off(height)),
            _ => Err(self.damaged("a mark is missing")),
        }
    }

    fn top(&self) -> Result<Id, Problem> {
        self.stack.last().copied().ok_or_else(|| self.damaged("its stack is empty"))
    }

    fn memorise(&mut self, slot: u32) -> Result<(), Problem> {
        let top = self.top()?;
        self.memo.insert(slot, top);
        Ok(())
    }

    fn recall(&mut self, slot: u32) -> Result<(), Problem> {
        let id = *self.memo.get(&slot).ok_or_else(|| self.damaged("it recalls what it never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn extend(&mut self, kind: Items, more: Vec<Id>) -> Result<(), Problem> {
        let top = self.top()?;
        match &mut self.objects[top] {
            Object::Items(own, items) if *own == kind => {
                items.extend(more);
                Ok(())
            }
            _ => Err(self.damaged("it adds to what is no list or dictionary")),
        }
    }

    fn function(&mut self, name: String) -> Result<(), Problem> {
        let function = Function::named(&name).ok_or(Problem::Code(name))?;
        self.push(Object::Function(function));
        Ok(())
    }

    fn tuple(&self, id: Id) -> Option<&[Id]> {
        match &self.objects[id] {
            Object::Items(Items::Tuple, items) => Some(items),
            _ => None,
        }
    }

    /// The first items of a tuple: one more than any function takes.
    fn first(&self, id: Id) -> Vec<Id> {
        self.tuple(id).unwrap_or_default().iter().copied().take(6).collect()
    }

    fn lengths(&self, id: Id) -> Option<Vec<usize>> {
        let length = |&id: &Id| match self.objects[id] {
            Object::Int(length) => usize::try_from(length).ok(),
            _ => None,
        };
        self.tuple(id)?.iter().map(length).collect()
    }

    fn text(&self, id: Id) -> Option<&str> {
        match &self.objects[id] {
            Object::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Moves an object's bytes out: each is used once, so that memory stays below the pickle's length.
    fn take_bytes(&mut self, id: Id) -> Option<Vec<u8>> {
        match &mut self.objects[id] {
            Object::Bytes(bytes) => Some(std::mem::take(bytes)),
            _ => None,
        }
    }

    fn call(&mut self) -> Result<(), Problem> {
        let (arguments, function) = (self.pop()?, self.pop()?);
        let wrong = self.damaged("it makes an array in a way that NumPy does not");
        let Object::Function(function) = self.objects[function] else { return Err(wrong) };
        let arguments = self.first(arguments);
        let made = match (function, arguments.as_slice()) {
            (Function::Reconstruct, _) => Some(Object::Empty),
            (Function::Dtype, &[code, ..]) => match self.text(code) {
                Some("O8") => Some(Object::TypeOfObjects),
                Some(code) => {
                    let unknown = || {
                        Problem::unexpected(
                            format!("an array of type {code:?}"),
                            "booleans, integers or floats of up to 64 bits",
                        )
                    };
                    Some(Object::Type(Type::parse(code).ok_or_else(unknown)?))
                }
                None => None,
            },
            (Function::Scalar, &[of, bytes]) => match self.objects[of] {
                Object::Type(of) => self
                    .take_bytes(bytes)
                    .map(|bytes| Array::new(of, Vec::new(), false, bytes).map(Object::Array))
                    .transpose()?,
                _ => None,
            },
            (Function::Encode, &[text, _]) => self.text(text).and_then(|text| {
                let latin1 = text.chars().map(|character| u8::try_from(u32::from(character)).ok());
                latin1.collect::<Option<Vec<u8>>>().map(Object::Bytes)
            }),
            (Function::FromBuffer, &[bytes, of, shape, order]) => {
                let of = match self.objects[of] {
                    Object::Type(of) => Some(of),
                    _ => None,
                };
                let parts =
                    (of, self.lengths(shape), self.text(order).map(|order| order == "F"), self.take_bytes(bytes));
                match parts {
                    (Some(of), Some(shape), Some(is_fortran), Some(bytes)) => {
                        Some(Object::Array(Array::new(of, shape, is_fortran, bytes)?))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        self.push(made.ok_or(wrong)?);
        Ok(())
    }

    /// Sets the state of an array (version, shape, type, order, bytes) or of a type (version, byte order, …).
    fn build(&mut self) -> Result<(), Problem> {
        let (state, top) = (self.pop()?, self.top()?);
        let wrong = self.damaged("it describes an array in a way that NumPy does not");
        let state = self.first(state);
        let built = match (&self.objects[top], state.as_slice()) {
            (Object::Type(of), &[_, order, ..]) => {
                self.text(order).map(|order| Object::Type(Type { is_big_endian: order == ">", ..*of }))
            }
            (Object::TypeOfObjects, _) => Some(Object::TypeOfObjects),
            (Object::Empty, &[_, _, of, _, items]) if matches!(self.objects[of], Object::TypeOfObjects) => {
                match &mut self.objects[items] {
                    Object::Items(Items::List, items) => Some(Object::Items(Items::List, std::mem::take(items))),
                    _ => None,
                }
            }
            (Object::Empty, &[_, shape, of, is_fortran, bytes]) => {
                let of = match self.objects[of] {
                    Object::Type(of) => Some(of),
                    _ => None,
                };
                let is_fortran = match self.objects[is_fortran] {
                    Object::Bool(is_fortran) => Some(is_fortran),
                    _ => None,
                };
                match (of, self.lengths(shape), is_fortran, self.take_bytes(bytes)) {
                    (Some(of), Some(shape), Some(is_fortran), Some(bytes)) => {
                        Some(Object::Array(Array::new(of, shape, is_fortran, bytes)?))
                    }
                    _ => None,
                }
            }
            _ => None,
        };
        self.objects[top] = built.ok_or(wrong)?;
        Ok(())
    }

    fn result(mut self, root: Id) -> Result<Pickled, Problem> {
        let ids = match &self.objects[root] {
            Object::Array(_) => vec![root],
            Object::Items(Items::Dict, items) => items.iter().skip(1).step_by(2).copied().collect(),
            Object::Items(_, items) => items.clone(),
            _ => Vec::new(),
        };
        let (mut arrays, mut texts) = (Vec::new(), Vec::new());
        for &id in &ids {
            // Moved out, since the same object many times over would cost memory that the pickle did not.
            match std::mem::replace(&mut self.objects[id], Object::Other) {
                Object::Array(array) => arrays.push(array),
                Object::Text(text) => texts.push(text),
                _ => {}
            }
        }
        match (arrays.len() == ids.len(), texts.len() == ids.len()) {
            (true, false) => Ok(Pickled::Arrays(arrays)),
            (false, true) => Ok(Pickled::Texts(texts)),
            _ => Err(Problem::unexpected(
                format!("{} arrays and {} texts among {} objects", arrays.len(), texts.len(), ids.len()),
                "a list of arrays, or of texts, each once",
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(pickle: &[u8]) -> String {
        parse(pickle).unwrap_err().to_string()
    }

    #[test]
    fn a_pickle_that_would_run_code_is_refused_by_the_name_of_what_it_would_call() {
        assert!(refusal(b"cos\nsystem\nX\x02\0\0\0ls\x85R.").contains("`os.system`"));
        assert!(refusal(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93\x8c\x011\x85R.").contains("`builtins.eval`"));
        assert!(refusal(b"ios\nsystem\n.").contains("opcode 0x69 at byte 0"));
    }

    #[test]
    fn what_holds_no_arrays_says_so() {
        assert!(refusal(b"]K\x01a.").contains("0 arrays and 0 texts among 1 objects"));
        assert!(refusal(b"K\x01.").contains("among 0 objects"));
        assert!(refusal(b"]q\0h\0a.").contains("among 1 objects"), "a list that holds itself");
    }

    #[test]
    fn texts_are_read() {
        let keys = Pickled::Texts(vec!["12".to_owned(), "34".to_owned()]);
        assert_eq!(parse(b"\x80\x04](\x8c\x0212\x94\x8c\x0234e.").unwrap(), keys);
    }

    proptest! {
        #[test]
        fn arbitrary_programs_are_an_error_and_no_panic(
            opcodes in proptest::collection::vec(proptest::sample::select(&b"(N\x88K)\x85\x86\x87t]ae}suqhcRb\x93\x94\x8cC."[..]), 0..64),
        ) {
            let _ = parse(&opcodes);
        }
    }
}
