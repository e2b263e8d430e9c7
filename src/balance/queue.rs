//! Who waits for a backend while all are full: first come, first served.

use std::collections::BTreeMap;

/// Clients that wait, in the order in which they came.
#[derive(Debug)]
pub struct Queue<T> {
    waiting: BTreeMap<u64, T>,
    next: u64,
    size: usize,
}

/// What came of asking one who waits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Offer {
    /// It has what it waits for.
    Taken,
    /// Nothing of what there is, is for it; another may want that.
    NotForIt,
    /// There is nothing for anybody.
    NothingLeft,
}

impl<T> Queue<T> {
    /// For so many.
    pub const fn new(size: usize) -> Self {
        Self {
            waiting: BTreeMap::new(),
            next: 0,
            size,
        }
    }

    /// For so many from now on; who waits already goes on waiting.
    pub const fn resize(&mut self, size: usize) {
        self.size = size;
    }

    /// Takes the last place; the number is needed to leave. None: the queue is full.
    pub fn enter(&mut self, one: T) -> Option<u64> {
        if self.waiting.len() >= self.size {
            return None;
        }
        let number = self.next;
        self.next += 1;
        self.waiting.insert(number, one);
        Some(number)
    }

    /// Does not wait any longer. None: its turn had come.
    pub fn leave(&mut self, number: u64) -> Option<T> {
        self.waiting.remove(&number)
    }

    /// Asks one after another. Who has taken something waits no longer.
    pub fn serve(&mut self, mut offer: impl FnMut(&mut T) -> Offer) {
        let mut from = 0;
        while let Some((number, one)) = self.waiting.range_mut(from..).next() {
            let number = *number;
            match offer(one) {
                Offer::Taken => drop(self.waiting.remove(&number)),
                Offer::NotForIt => {}
                Offer::NothingLeft => return,
            }
            from = number + 1;
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Serves at most `room`, none of them in `never`.
    fn serve(queue: &mut Queue<char>, mut room: usize, never: &str) -> String {
        let mut served = String::new();
        queue.serve(|one| {
            if room == 0 {
                return Offer::NothingLeft;
            }
            if never.contains(*one) {
                return Offer::NotForIt;
            }
            room -= 1;
            served.push(*one);
            Offer::Taken
        });
        served
    }

    #[test]
    fn first_come_first_served_and_who_leaves_frees_the_place() {
        let mut queue = Queue::new(4);
        let numbers: Vec<_> = "abcd".chars().map(|c| queue.enter(c).unwrap()).collect();
        assert_eq!(queue.enter('e'), None);
        assert_eq!(queue.leave(numbers[1]), Some('b'));
        assert_eq!(queue.leave(numbers[1]), None);
        assert!(queue.enter('e').is_some());
        assert_eq!(serve(&mut queue, 1, ""), "a");
        assert_eq!(queue.leave(numbers[0]), None);
        assert_eq!(serve(&mut queue, 9, "c"), "de");
        assert_eq!(queue.len(), 1);
        assert_eq!(serve(&mut queue, 9, ""), "c");
        assert!(queue.is_empty());
    }
}
