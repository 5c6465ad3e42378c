"""Measure psync against the floor: what ssh, tar and rsync need for the same, on the same data."""
