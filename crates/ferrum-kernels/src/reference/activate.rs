//! [`crate::Backend::activate`]: `x = act(x)`

use super::gated_linear;
use crate::host::HostBuffer;
use crate::params::Activate;
use crate::{Result, checks};

pub(super) fn activate(x: &mut HostBuffer, p: &Activate) -> Result<()> {
    for x in checks::activate(x, p)? {
        *x = gated_linear::activate(p.activation, f64::from(*x)) as f32;
    }
    Ok(())
}
