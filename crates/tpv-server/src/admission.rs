//! Room for samples: as many as there are slots and places in the queue, and not all for one client.

use crate::config::Limits;
use crate::error::ApiError;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts the samples that were let in.
pub struct Admission {
    limits: Limits,
    admitted: Mutex<Admitted>,
}

#[derive(Default)]
struct Admitted {
    samples: usize,
    by_client: HashMap<IpAddr, usize>,
}

impl Admission {
    /// Room as `limits` say.
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self { limits, admitted: Mutex::default() })
    }

    /// Refuses more samples than there can ever be room for.
    pub fn check(&self, samples: usize) -> Result<(), ApiError> {
        let most = self.most().min(self.limits.max_per_client);
        if samples <= most {
            return Ok(());
        }
        Err(ApiError::field("n", format!("{samples} samples are more than this server takes of one client: {most}")))
    }

    fn most(&self) -> usize {
        self.limits.max_batch.saturating_add(self.limits.max_queue)
    }

    /// Makes room for samples of a client, or says why there is none.
    pub fn admit(self: &Arc<Self>, client: IpAddr, samples: usize) -> Result<Room, ApiError> {
        let max_per_client = self.limits.max_per_client;
        let mut admitted = self.lock();
        let of_client = admitted.by_client.get(&client).copied().unwrap_or(0);
        if admitted.samples + samples > self.most() {
            let message = "all slots are taken and the queue is full; try again in a moment";
            return Err(ApiError::busy("overloaded", message));
        }
        if of_client + samples > max_per_client {
            return Err(ApiError::too_many(max_per_client));
        }
        admitted.samples += samples;
        admitted.by_client.insert(client, of_client + samples);
        Ok(Room { admission: Arc::clone(self), client, samples })
    }

    fn lock(&self) -> MutexGuard<'_, Admitted> {
        self.admitted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Room for samples, given back when dropped.
pub struct Room {
    admission: Arc<Admission>,
    client: IpAddr,
    samples: usize,
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut admitted = self.admission.lock();
        admitted.samples -= self.samples;
        if let Some(count) = admitted.by_client.get_mut(&self.client) {
            *count -= self.samples;
            if *count == 0 {
                admitted.by_client.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(change: impl FnOnce(&mut Limits)) -> Arc<Admission> {
        let mut limits = Limits { max_batch: 2, max_queue: 1, ..Limits::default() };
        change(&mut limits);
        Admission::new(limits)
    }

    #[test]
    fn what_never_has_room_is_wrong_and_what_has_none_now_may_come_back() {
        let client = IpAddr::from([127, 0, 0, 1]);
        let small = admission(|_| {});
        assert!(small.check(3).is_ok());
        let error = small.check(4).unwrap_err();
        assert_eq!((error.status, error.field.as_deref()), (400, Some("n")));
        assert_eq!(admission(|limits| limits.max_per_client = 1).check(2).unwrap_err().status, 400);
        let _room = small.admit(client, 3).unwrap();
        assert_eq!(small.admit(client, 1).map(drop).unwrap_err().status, 503);
        let endless = admission(|limits| limits.max_queue = usize::MAX);
        assert!(endless.check(100).is_ok() && endless.admit(client, 100).is_ok());
    }
}
