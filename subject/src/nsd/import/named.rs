//! Arrays by name, in dictionaries that Python pickled: how labs keep models that they fitted with scikit-learn.

use super::array::Array;
use super::error::Problem;
use super::pickle::{Id, Items, Object, objects};

/// Dictionaries of arrays, one in the other.
#[derive(Debug)]
pub struct Named {
    objects: Vec<Object>,
    root: Id,
}

impl Named {
    /// The dictionaries in the pickle in `bytes`: one, or one in an array of objects, as `numpy.save` keeps it.
    ///
    /// # Errors
    /// It would execute code, is damaged, or holds something else.
    pub fn parse(bytes: &[u8]) -> Result<Self, Problem> {
        let (objects, root) = objects(bytes)?;
        let root = match &objects[root] {
            Object::Items(Items::List, items) if items.len() == 1 => items[0],
            _ => root,
        };
        match objects[root] {
            Object::Items(Items::Dict, _) => Ok(Self { objects, root }),
            _ => Err(Problem::unexpected("no dictionary", "a pickled dictionary, as numpy.save writes it")),
        }
    }

    /// The names in the dictionary at `path`.
    ///
    /// # Errors
    /// There is no such dictionary.
    pub fn names(&self, path: &[&str]) -> Result<Vec<&str>, Problem> {
        let id = self.find(path)?;
        match self.names_of(id) {
            Some(names) => Ok(names),
            None => Err(Problem::unexpected(format!("no dictionary in `{}`", path.join(".")), "one of arrays by name")),
        }
    }

    /// Takes out the array at `path`.
    ///
    /// # Errors
    /// There is no such array, or it was taken.
    pub fn take(&mut self, path: &[&str]) -> Result<Array, Problem> {
        let id = self.find(path)?;
        match std::mem::replace(&mut self.objects[id], Object::Other) {
            Object::Array(array) => Ok(array),
            _ => Err(Problem::unexpected(format!("no array of numbers in `{}`", path.join(".")), "one")),
        }
    }

    fn find(&self, path: &[&str]) -> Result<Id, Problem> {
        let mut id = self.root;
        for (depth, name) in path.iter().enumerate() {
            id = self.item(id, name).ok_or_else(|| {
                let names = self.names_of(id).unwrap_or_default().join(", ");
                let place = if depth == 0 { String::new() } else { format!(" in `{}`", path[..depth].join(".")) };
                Problem::unexpected(format!("only [{names}]{place}"), format!("`{name}` there"))
            })?;
        }
        Ok(id)
    }

    fn pairs(&self, dictionary: Id) -> Option<impl Iterator<Item = (&str, Id)>> {
        let Object::Items(Items::Dict, items) = &self.objects[dictionary] else { return None };
        Some(items.as_chunks::<2>().0.iter().filter_map(|&[key, value]| match &self.objects[key] {
            Object::Text(key) => Some((key.as_str(), value)),
            _ => None,
        }))
    }

    fn names_of(&self, dictionary: Id) -> Option<Vec<&str>> {
        Some(self.pairs(dictionary)?.map(|(key, _)| key).collect())
    }

    fn item(&self, dictionary: Id, name: &str) -> Option<Id> {
        self.pairs(dictionary)?.find(|(key, _)| *key == name).map(|(_, value)| value)
    }
}
