//! Bytes that bodies or answers may take together, and the share of them that one tenant may have.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::Tenant;
use crate::error::ApiError;

/// A number of bytes that can be taken and come back.
#[derive(Debug)]
pub struct Budget {
    all: Arc<Semaphore>,
    /// What each tenant may take of it.
    shares: Vec<Arc<Semaphore>>,
    share: usize,
}

/// Bytes that were taken; dropping it gives them back.
#[derive(Debug)]
pub struct Room {
    all: OwnedSemaphorePermit,
    own: OwnedSemaphorePermit,
}

/// Why there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// All bytes are taken.
    All,
    /// The tenant has its share.
    Share,
}

impl Budget {
    /// `bytes` for so many tenants. Of several, one gets half of it at most, but never less than
    /// `least`, which has room in any case.
    pub fn new(bytes: usize, least: usize, tenants: usize) -> Self {
        let bytes = bytes.max(least).min(Semaphore::MAX_PERMITS);
        let share = if tenants > 1 { (bytes / 2).max(least.min(bytes)) } else { bytes };
        let semaphore = |bytes| Arc::new(Semaphore::new(bytes));
        let shares = (0..tenants.max(1)).map(|_| semaphore(share)).collect();
        Budget { all: semaphore(bytes), shares, share }
    }

    /// The most that one tenant can take.
    pub fn share(&self) -> usize {
        self.share
    }

    /// Takes so many bytes for a tenant.
    pub fn take(&self, tenant: &Tenant, bytes: usize) -> Result<Room, Full> {
        let share = self.shares.get(tenant.number).ok_or(Full::Share)?;
        let taken = |from: &Arc<Semaphore>, full| {
            let bytes = u32::try_from(bytes).map_err(|_| full)?;
            from.clone().try_acquire_many_owned(bytes).map_err(|_| full)
        };
        Ok(Room { all: taken(&self.all, Full::All)?, own: taken(share, Full::Share)? })
    }
}

impl Full {
    /// The error of a request that is refused because too many `what`.
    pub fn refusal(self, what: &str) -> ApiError {
        match self {
            Full::Share => ApiError::busy(format!("too many {what} with this API key"), 1),
            Full::All => {
                let message = format!("too many {what} at once");
                ApiError { retry_after: Some(1), ..ApiError::unavailable(message) }
            }
        }
    }
}

impl Room {
    /// How many bytes.
    pub fn bytes(&self) -> usize {
        self.all.num_permits()
    }

    /// Adds what was taken from the same budget for the same tenant.
    pub fn merge(&mut self, more: Room) {
        self.all.merge(more.all);
        self.own.merge(more.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_leaves_room_for_others() {
        let [first, second] = [0, 1].map(Tenant::numbered);
        let budget = Budget::new(100, 10, 2);
        let half = budget.take(&first, 50).unwrap();
        assert_eq!(budget.take(&first, 1).unwrap_err(), Full::Share);
        let mut rest = budget.take(&second, 20).unwrap();
        rest.merge(budget.take(&second, 30).unwrap());
        assert_eq!((half.bytes(), rest.bytes()), (50, 50));
        drop(half);
        assert!(budget.take(&first, 50).is_ok());
        let three = Budget::new(100, 10, 3);
        let _rooms = [0, 1].map(|n| three.take(&Tenant::numbered(n), 50).unwrap());
        assert_eq!(three.take(&Tenant::numbered(2), 1).unwrap_err(), Full::All);
    }

    #[test]
    fn one_alone_may_have_all_and_the_largest_always_fits() {
        let tenant = Tenant::numbered(0);
        assert!(Budget::new(100, 10, 1).take(&tenant, 100).is_ok());
        assert!(Budget::new(0, 10, 4).take(&tenant, 10).is_ok());
        assert!(Budget::new(16, 10, 4).take(&tenant, 10).is_ok());
        assert!(Budget::new(usize::MAX, 0, 1).take(&tenant, usize::MAX).is_err());
    }
}
