"""`vestry tenants|projects|users|keys|policy|break-glass|apply`: what is kept in the directory."""
