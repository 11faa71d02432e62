"""What watches an organisation: alarms, health checks, the journal of events, mail to the administrator, metrics."""
