//! [`crate::Backend::gate`]: `x = act(x) · up`

use super::{Reference, gated_linear};
use crate::host::HostBuffer;
use crate::params::Gate;
use crate::{Result, checks};

pub(super) fn gate(x: &mut HostBuffer, p: &Gate<'_, Reference>) -> Result<()> {
    let checks::GateView { x, up } = checks::gate(x, p)?;
    for (x, up) in x.iter_mut().zip(up) {
        *x = (gated_linear::activate(p.activation, f64::from(*x)) * f64::from(*up)) as f32;
    }
    Ok(())
}
