"""A family that does not exist, as small as one can be; `test_made_up_family.py` puts it where families are."""
