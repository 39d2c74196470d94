-- What only the version before needed.
DROP TRIGGER drill_note ON batches;
DROP FUNCTION drill_note();
DROP TABLE drill_batches;
