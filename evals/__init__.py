"""The trusted scorer: draws secret problems, lets the model answer, grades. It never imports the controller."""
