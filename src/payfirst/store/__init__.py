"""PostgreSQL: one module a table, every statement named and explained."""
