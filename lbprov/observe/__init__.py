"""What lbprov tells its operators: logs."""
