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

    /// Makes room for samples of a client, or says why there is none.
    pub fn admit(self: &Arc<Self>, client: IpAddr, samples: usize) -> Result<Room, ApiError> {
        let Limits { max_batch, max_queue, max_per_client, .. } = self.limits;
        let mut admitted = self.lock();
        let of_client = admitted.by_client.get(&client).copied().unwrap_or(0);
        if admitted.samples + samples > max_batch + max_queue {
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
